"""Weights of qfgaohao's MobileNetV1 and SqueezeNet networks, and of TensorFlow's SSDs: names, outputs, priors and files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import ssd_ops
from ssd import build_from_weights, build_model, export_weights, load_weights
from ssd.models.folded import folded
from ssd.programs.convert import main as convert
from ssd.weight_files.tensorflow_files import from_variables, to_variable
from tests.ssd import foreign_weights as foreign
from tests.ssd.small_networks import random_state, run_qfgaohao, run_tensorflow, shapes_of

CLASSES = 4
QFGAOHAO = {"mb1": "ssd300_mobilenet_v1", "mb1 lite": "ssd300_mobilenet_v1", "squeezenet": "ssdlite300_squeezenet1_1"}


@pytest.mark.parametrize("network", QFGAOHAO)
def test_qfgaohao_outputs_agree(network: str) -> None:
    state = random_state(shapes_of(network, CLASSES))
    model = build_from_weights({"module." + name: value for name, value in state.items()}).eval()
    assert model.build_args["name"] == QFGAOHAO[network] and model.num_classes == CLASSES
    assert len(model.priors) == (2568 if network == "squeezenet" else 3000) and model.preset.name == "qfgaohao"
    assert model.prior_config.steps == (16, 32, 64, 100, 150, 300)
    image = torch.randn(1, 3, 300, 300, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours, theirs = model.forward_raw(image), run_qfgaohao(network, state, image, CLASSES)
    for found, expected in zip(ours, theirs, strict=True):
        assert found.shape == expected.shape and expected.std() > 1e-3
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    back = export_weights(model, "qfgaohao")
    assert back.keys() == state.keys() and all(torch.equal(value, back[name]) for name, value in state.items())


def test_dusty_nv_priors() -> None:
    """At 300 qfgaohao's; elsewhere fractions 0.1, 0.2, 0.37 ... of the input, and steps rounded up."""
    state = random_state(shapes_of("mb1", CLASSES))
    usual = build_from_weights(state, system="dusty_nv")
    assert usual.preset.name == "dusty_nv" and torch.equal(usual.priors, build_from_weights(state).priors)
    large = build_model("ssd300_mobilenet_v1", CLASSES, preset="dusty_nv", image_size=640)
    config = large.prior_config
    assert config.steps == (16, 32, 64, 128, 214, 320)
    expected = [640 * fraction for fraction in (0.1, 0.2, 0.37, 0.54, 0.71, 0.88, 1.05)]
    assert [size for level in config.min_sizes for size in level] == pytest.approx(expected[:-1])
    assert [size for level in config.max_sizes for size in level] == pytest.approx(expected[1:])


def test_balancap_names() -> None:
    """The same weights as Caffe's, under slim's names; a training checkpoint also has slots of its optimizer."""
    model = build_from_weights(foreign.vgg("caffe", CLASSES))
    state = export_weights(model, "balancap")
    names = ["conv1/conv1_1", "conv5/conv5_3", "conv6", "conv7", "block8/conv1x1", "block11/conv3x3"]
    names += ["block4_box/conv_loc", "block11_box/conv_cls"]
    assert {f"ssd_300_vgg/{name}/{part}" for name in names for part in ("weights", "biases")} <= state.keys()
    assert len(state) == 71 and state["ssd_300_vgg/block4_box/L2Normalization/gamma"].shape == (512,)
    state |= {"global_step": torch.tensor(7), "ssd_300_vgg/conv6/weights/RMSProp_1": torch.ones(3)}
    report = load_weights(build_model("ssd300_vgg16", CLASSES, preset="balancap"), state)
    assert report.system == "balancap" and report.prefix == "ssd_300_vgg/" and len(report.loaded) == 71
    assert report.dropped == ["conv6/weights/RMSProp_1", "global_step"] and report.differences == []
    again = build_from_weights(state)
    assert again.preset.name == "balancap" and again.preset.prior_sizes == "coco" and again.preset.channels == "rgb"
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in model.state_dict().items())


def test_kernels_in_files_have_the_order_of_tensorflow(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    variables = tensorflow_variables()
    np.savez(tmp_path / "w.npz", **variables)
    convert([str(tmp_path / "w.npz"), str(tmp_path / "again.npz"), "--to", "tensorflow"])
    assert "ssd300_mobilenet_v1 with 4 classes for tensorflow" in capsys.readouterr().out
    with np.load(tmp_path / "again.npz") as again:
        assert set(again.files) == variables.keys()
        assert all(np.array_equal(again[name], value) for name, value in variables.items())
    assert variables["FeatureExtractor/MobilenetV1/Conv2d_1_depthwise/depthwise_weights"].shape == (3, 3, 32, 1)
    assert variables["BoxPredictor_0/ClassPredictor/weights"].shape == (1, 1, 512, 3 * CLASSES)


def tensorflow_variables() -> dict[str, np.ndarray]:
    names = export_weights(
        build_model("ssd300_mobilenet_v1", CLASSES, layout="tensorflow", preset="tensorflow"), "tensorflow"
    )
    state = random_state({name: tuple(value.shape) for name, value in names.items()})
    return {name: to_variable(name, value) for name, value in state.items()}


def check_tensorflow(
    variables: dict[str, np.ndarray], boxes: np.ndarray, scores: np.ndarray, image: np.ndarray
) -> None:
    model = build_from_weights(from_variables(variables)).eval()
    assert model.build_args["layout"] == "tensorflow" and len(model.priors) == 1917
    x = torch.from_numpy(image).permute(0, 3, 1, 2)
    with torch.no_grad():
        loc, logits = model.forward_raw(x)
        decoded = ssd_ops.decode_boxes(loc, model.priors)[0]
        torch.testing.assert_close(decoded, torch.from_numpy(boxes).float(), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(logits.sigmoid()[0], torch.from_numpy(scores).float(), rtol=1e-4, atol=1e-4)
        found = model.detect(loc, logits)
    best = scores[:, 1:].max()
    assert found.counts.item() == 100 and found.scores[0, 0].item() == pytest.approx(best, abs=1e-4)
    with pytest.raises(ValueError, match="multi_label must be True if scores is sigmoid"):
        replace(model.preset, multi_label=False)
    with pytest.raises(ValueError, match="training needs scores='softmax', got 'sigmoid'"):
        model.criterion(loc, logits, model.priors, [torch.rand(0, 4)], [torch.zeros(0, dtype=torch.long)])


IMAGE = np.random.default_rng(0).uniform(-1, 1, (1, 300, 300, 3)).astype(np.float32)


def test_tensorflow_outputs_agree() -> None:
    variables = tensorflow_variables()
    check_tensorflow(variables, *run_tensorflow(variables, IMAGE, CLASSES), IMAGE)


def test_tensorflow_checkpoints_and_outputs_of_tensorflow(tmp_path: Path) -> None:
    """Where TensorFlow is installed: its convolutions, its checkpoint files, its graphs, and the command for .npz."""
    tf = pytest.importorskip("tensorflow")
    variables = tensorflow_variables()

    def convolve(x: np.ndarray, kernel: np.ndarray, stride: int, depthwise: bool) -> np.ndarray:
        operator, strides = (tf.nn.depthwise_conv2d if depthwise else tf.nn.conv2d), [1, stride, stride, 1]
        return operator(x, kernel, strides, "SAME").numpy()

    check_tensorflow(variables, *run_tensorflow(variables, IMAGE, CLASSES, convolve), IMAGE)
    names = [*variables, "global_step"]
    tf.raw_ops.SaveV2(
        prefix=str(tmp_path / "model.ckpt"),
        tensor_names=names,
        shape_and_slices=[""] * len(names),
        tensors=[*variables.values(), np.int64(3)],
    )
    graph = tf.Graph()
    with graph.as_default():
        for name, value in variables.items():
            tf.constant(value, name=name)
    (tmp_path / "graph.pb").write_bytes(graph.as_graph_def().SerializeToString())
    expected = from_variables(variables)
    for file in ("model.ckpt", "model.ckpt.index", "model.ckpt.data-00000-of-00001", "graph.pb"):
        model = build_model("ssd300_mobilenet_v1", CLASSES, layout="tensorflow", preset="tensorflow")
        load_weights(model, tmp_path / file)
        assert all(torch.equal(value, expected[name]) for name, value in export_weights(model, "tensorflow").items())


def test_tensorflow_mobilenet_v2_names_and_padding() -> None:
    """SSDlite on MobileNetV2 has depthwise heads and extra levels, SSD on it has 1x1 heads; strided layers pad as SAME."""
    for layout, head, extra in (
        ("tensorflow", "ClassPredictor_depthwise/depthwise_weights", "_depthwise/depthwise_weights"),
        ("tensorflow_ssd", "ClassPredictor/weights", "/weights"),
    ):
        model = build_model("ssdlite320_mobilenet_v2", 91, layout=layout, preset="tensorflow", image_size=300)
        state = export_weights(model, "tensorflow")
        stem = "FeatureExtractor/MobilenetV2"
        assert {f"BoxPredictor_5/{head}", f"{stem}/layer_19_2_Conv2d_5_3x3_s2_128{extra}"} <= state.keys()
        assert {
            f"{stem}/expanded_conv/project/weights",
            f"{stem}/expanded_conv_16/expand/BatchNorm/gamma",
        } <= state.keys()
        assert state[f"{stem}/Conv_1/weights"].shape == (1280, 320, 1, 1)
        again = build_from_weights(state)
        assert again.build_args == model.build_args and again.prior_config.boxes_per_cell == (3, 6, 6, 6, 6, 6)
        assert all(torch.equal(value, again.state_dict()[key]) for key, value in model.state_dict().items())
        x = torch.zeros(1, 3, 10, 10)
        x[..., 0] = 1.0  # SAME pads an even side at its end alone: the first column is the kernel's first
        conv = model.backbone.features[0][0]
        expected = torch.nn.functional.conv2d(torch.nn.functional.pad(x, (0, 1, 0, 1)), conv.weight, stride=2)
        assert torch.equal(conv(x), expected)


def test_folded_network_keeps_the_padding() -> None:
    model = build_model("ssd300_mobilenet_v1", CLASSES, layout="tensorflow", preset="tensorflow", freeze_bn=True).eval()
    images = torch.randint(0, 256, (1, 3, 300, 300), dtype=torch.uint8)
    with torch.no_grad():
        expected = model.forward_raw(model.normalize(images))
        net = folded(model)
        found = net.forward_raw(net.normalize(images))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
