"""Tests detection of the network of a checkpoint, and the program ssd convert."""

import errno

import pytest
import torch

from ssd import build_from_weights, build_model, export_weights
from ssd.checkpoints import LAYOUTS
from ssd.checkpoints.layouts import find_layout
from ssd.checkpoints.networks import network_of
from ssd.checkpoints.reading import Checkpoint
from ssd.programs.convert import SYSTEMS, main
from tests.ssd import foreign_weights as foreign

NETWORKS = {
    "amdegroot": ("ssd300_vgg16", {"preset": "amdegroot", "prior_sizes": "voc"}),
    "lufficc": ("ssd300_vgg16", {"preset": "lufficc", "prior_sizes": "lufficc_voc"}),
    "lufficc_v1": ("ssd300_vgg16", {"preset": "lufficc", "prior_sizes": "lufficc_voc"}),
    "qfgaohao": ("ssd300_vgg16", {"preset": "qfgaohao", "norm": "l2"}),
    "caffe": ("ssd300_vgg16", {"preset": "caffe", "prior_sizes": "voc"}),
    "nvidia": ("ssd300_resnet18", {"preset": "nvidia"}),
    "qfgaohao mb2": ("ssdlite320_mobilenet_v2", {"preset": "qfgaohao", "layout": "qfgaohao", "image_size": 300}),
    "lufficc mb2": ("ssdlite320_mobilenet_v2", {"preset": "lufficc", "layout": "lufficc"}),
}


def weights_of(case):
    system, _, network = case.partition(" ")
    if system == "nvidia":
        return foreign.nvidia(21)
    return foreign.mobilenet_v2(system, 21) if network else foreign.vgg(system, 21)


@pytest.mark.parametrize("case", NETWORKS)
def test_network_is_detected_from_names_and_shapes(case):
    state = weights_of(case)
    name, options = NETWORKS[case]
    found = network_of(Checkpoint("file", state), find_layout(state, None, "file"))
    assert found == {"name": name, "num_classes": 21, **options}


def test_detected_model_of_checkpoint():
    model = build_from_weights(weights_of("qfgaohao mb2"), nms_iou_threshold=0.3)
    assert model.build_args["name"] == "ssdlite320_mobilenet_v2" and model.num_classes == 21
    assert (model.preset.name, model.preset.nms_iou_threshold, len(model.priors)) == ("qfgaohao", 0.3, 3000)
    assert (model.backbone.features[0][0].weight == 1).all()
    trained = build_model("ssd_tiny", 3, image_size=64, mean=[0.1, 0.2, 0.3])
    again = build_from_weights({"model": trained.state_dict(), "build_args": trained.build_args})
    assert again.preset == trained.preset and torch.equal(again.priors, trained.priors)
    with pytest.raises(ValueError, match="the network cannot be determined"):
        build_from_weights(trained.state_dict())


def test_torchvision_networks_are_detected_by_tail():
    for tail in (True, False):
        state = build_model("ssdlite320_mobilenet_v3_large", 4, reduced_tail=tail).state_dict()
        found = network_of(Checkpoint("file", state), LAYOUTS["torchvision"])
        assert found["name"] == "ssdlite320_mobilenet_v3_large" and found["num_classes"] == 4
        assert found["reduced_tail"] == tail


def test_convert_round_trip(tmp_path, capsys):
    state = {name: value.clone() for name, value in weights_of("nvidia").items() if "dboxes" not in name}
    files = [str(tmp_path / name) for name in ("nvidia.pth", "ours.pth")]
    torch.save({"epoch": 1, "model": state}, files[0])
    main([files[0], files[1], "--to", "ssd"])
    assert "weights of ssd300_resnet18 with 21 classes for ssd" in capsys.readouterr().out
    model = build_from_weights(files[0])
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in torch.load(files[1])["model"].items())
    back = export_weights(model, "nvidia")
    assert back.keys() == state.keys() and all(torch.equal(v, back[k]) for k, v in state.items())


def test_convert_error_messages(tmp_path, capsys):
    assert set(SYSTEMS) == set(LAYOUTS)
    file = tmp_path / "in.pth"
    for arguments, message in (
        (["none.pth", "out.pth", "--to", "amdegroot"], "input none.pth does not exist"),
        ([str(file), str(file), "--to", "amdegroot"], "already exists; remove it first"),
        ([str(file), "out.pth", "--to", "keras"], "invalid choice: 'keras'"),
    ):
        torch.save(weights_of("qfgaohao mb2"), file)
        with pytest.raises(SystemExit):
            main(arguments)
        assert message in capsys.readouterr().err
    with pytest.raises(SystemExit, match="amdegroot has no ssdlite320_mobilenet_v2; it has ssd300_vgg16"):
        main([str(file), str(tmp_path / "out.pth"), "--to", "amdegroot"])
    assert not (tmp_path / "out.pth").exists()


@pytest.mark.parametrize("suffix", ["pth", "safetensors", "npz"])
def test_convert_on_full_disk_error_is_one_line(tmp_path, monkeypatch, suffix):
    if suffix == "safetensors":
        pytest.importorskip("safetensors")

    def fill(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    model = build_model("ssd_tiny", 3, image_size=64, width=4, levels=2)
    torch.save({"build_args": model.build_args, "model": model.state_dict()}, tmp_path / "in.pth")
    monkeypatch.setattr("ssd.common.atomic_write.os.fsync", fill)
    with pytest.raises(SystemExit, match=rf"^error: cannot write .*out\.{suffix}: No space left on device"):
        main([str(tmp_path / "in.pth"), str(tmp_path / f"out.{suffix}"), "--to", "ssd"])
    assert [path.name for path in tmp_path.iterdir()] == ["in.pth"]
