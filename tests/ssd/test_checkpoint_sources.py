"""Tests sources of weights: prefixes of wrappers and frameworks, run folders, unsupported networks."""

import copy

import pytest
import torch
from torch.optim.swa_utils import AveragedModel

from ssd import WeightsError, build_from_weights, build_model, load_weights
from ssd.programs.convert import main as convert
from tests.ssd import foreign_weights as foreign


@pytest.fixture
def tiny():
    return build_model("ssd_tiny", 3, image_size=64, width=4)


@pytest.fixture
def state():
    return build_model("ssd_tiny", 3, image_size=64, width=4).state_dict()


def same(model, state):
    return all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


def averaged(tiny, state):
    model = copy.deepcopy(tiny)
    model.load_state_dict(state)
    return AveragedModel(model).state_dict()


@pytest.mark.parametrize(
    ("source", "prefix", "outside"),
    [
        (lambda tiny, state: {f"model.{k}": v for k, v in state.items()}, "model.", []),
        (lambda tiny, state: {f"net.module.{k}": v for k, v in state.items()}, "module.net.", []),
        (lambda tiny, state: {f"module._orig_mod.{k}": v for k, v in state.items()}, "module._orig_mod.", []),
        (lambda tiny, state: {k.replace("head.", "head._orig_mod."): v for k, v in state.items()}, "_orig_mod.", []),
        (averaged, "module.", ["n_averaged"]),
        (
            lambda tiny, state: {"loss.weight": torch.ones(3), **{f"detector.{k}": v for k, v in state.items()}},
            "detector.",
            ["loss.weight"],
        ),
        (
            lambda tiny, state: {
                "state_dict": {
                    **{f"model.{k}": torch.zeros_like(v) for k, v in state.items()},
                    **{f"ema.{k}": v for k, v in state.items()},
                },
                "pytorch-lightning_version": "2.5",
            },
            "ema.",
            None,
        ),
    ],
)
def test_prefixes_are_removed_and_reported(source, prefix, outside, tiny, state):
    report = load_weights(tiny, source(tiny, state))
    assert same(tiny, state) and report.prefix == prefix
    assert f"  {prefix!r} removed from the names" in str(report)
    assert outside is None or report.dropped == outside


def test_ambiguous_prefixes_raise(tiny, state):
    with pytest.raises(WeightsError, match="unexpected"):
        load_weights(tiny, {**state, **{f"module.{k}": v for k, v in state.items()}})


def test_weights_from_run_folders(tmp_path, tiny, state, capsys):
    with pytest.raises(FileNotFoundError, match=f"the folder '{tmp_path}' holds no best.pt or last.pt"):
        load_weights(tiny, tmp_path)
    saved = {"build_args": tiny.build_args, "classes": ["a", "b"]}
    torch.save({"model": tiny.state_dict(), **saved}, tmp_path / "last.pt")
    assert same(build_from_weights(tmp_path), tiny.state_dict())
    torch.save({"model": state, **saved}, tmp_path / "best.pt")
    assert same(build_from_weights(str(tmp_path)), state)
    convert([str(tmp_path), str(tmp_path / "w.pth"), "--to", "ssd"])
    assert same(build_from_weights(tmp_path / "w.pth"), state)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("backbone._conv_stem.weight", "SSD on EfficientNet (lufficc's efficient_net)"),
        ("FeatureExtractor/InceptionV2/Conv2d_1a_7x7/weights", "TensorFlow's SSD on another backbone"),
    ],
)
def test_unsupported_network_error_names_it(name, words, tiny):
    other = {name: torch.zeros(1), "classification_headers.0.bias": torch.zeros(24)}
    for load in (build_from_weights, lambda source: load_weights(tiny, source)):
        with pytest.raises(ValueError) as error:
            load(other)
        assert f"the mapping holds {words}" in str(error.value) and "a network that this project does not have" in str(
            error.value
        )
    vgg = build_model("ssd300_vgg16", 5, norm="batch")
    with pytest.raises(WeightsError) as error:
        load_weights(vgg, other)
    assert f"\n  it holds {words}" in str(error.value)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("FeatureExtractor/MobilenetV3/Conv/weights", "TensorFlow's SSD on another backbone than MobileNetV1 and V2"),
        ("WeightSharedConvolutionalBoxPredictor/conv2d_0/weights", "heads that all levels share (FPN)"),
        ("model/_feature_extractor/layer-0/kernel", "a detector of TensorFlow 2's Object Detection API"),
        ("roi_heads.box_predictor.cls_score.weight", "a two-stage detector"),
    ],
)
def test_network_of_no_known_layout_is_named(name, words):
    with pytest.raises(ValueError) as error:
        build_from_weights({name: torch.zeros(1), "other": torch.zeros(1)})
    assert words in str(error.value) and "a network that this project does not have" in str(error.value)


def test_lufficc_2018_names_are_not_taken_for_amdegroot():
    model = build_from_weights(foreign.vgg("lufficc_v1", 21))
    assert model.preset.name == "lufficc" and model.preset.prior_sizes == "lufficc_voc"


def test_weight_source_error_messages(tiny):
    with pytest.raises(TypeError, match=r"source must be a file, .* got SSD; pass its state_dict\(\)"):
        load_weights(tiny, tiny)
    with torch.device("meta"):
        empty = build_model("ssd_tiny", 3, image_size=64, width=4)
    with pytest.raises(ValueError, match=r"model is on the meta device, .*to_empty"):
        load_weights(empty, tiny.state_dict())


@pytest.mark.parametrize(
    ("output", "words"),
    [
        ("out.onnx", "must end in .pth, .pt, .bin, .tar, .safetensors, .caffemodel or .npz"),
        ("none/out.pth", "folder none does not exist"),
    ],
)
def test_convert_rejects_unsupported_output_path(output, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    torch.save({}, "in.pth")
    with pytest.raises(SystemExit):
        convert(["in.pth", output, "--to", "amdegroot"])
    assert words in capsys.readouterr().err
