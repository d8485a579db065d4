"""Tests load_weights with checkpoints that do not fit: error messages, and nothing is partially loaded."""

import collections
import re
import warnings

import pytest
import torch

from ssd import WeightsError, build_model, export_weights, load_weights
from ssd.common.errors import ConfigError
from ssd.engine.setup import start_from
from tests.ssd import foreign_weights as foreign

LOC, CLS = "head.regression_head.module_list", "head.classification_head.module_list"


@pytest.fixture(scope="module")
def vgg():
    return build_model("ssd300_vgg16", 5, preset="amdegroot")


@pytest.fixture
def tiny():
    return build_model("ssd_tiny", 3, image_size=64)


@pytest.fixture
def state():
    """The state dict of another model with the architecture of tiny."""
    return {key: value.clone() for key, value in build_model("ssd_tiny", 3, image_size=64).state_dict().items()}


def copy_of(model):
    return {key: value.clone() for key, value in model.state_dict().items()}


def same(model, state):
    return all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


def test_load_weights_lists_all_mismatches_and_loads_nothing(tiny, state):
    before = copy_of(tiny)
    del state[f"{LOC}.0.bias"], state[f"{LOC}.1.bias"]
    state["head.extra.weight"] = torch.zeros(1)
    first = next(iter(state))
    state[first] = torch.zeros(7)
    with pytest.raises(WeightsError) as error:
        load_weights(tiny, state)
    text = str(error.value)
    assert "the mapping, in ssd's layout, does not fit ssd_tiny:" in text
    assert f"2 missing: {LOC}.0.bias, {LOC}.1.bias\n" in text and "1 unexpected: head.extra.weight\n" in text
    shape = tuple(before[first].shape)
    assert f"1 of another shape: {first}: (7,) in the file, {shape} in the model\n" in text
    assert "nothing was loaded; strict=False loads what fits" in text
    assert same(tiny, before)

    report = load_weights(tiny, state, strict=False)
    assert report.missing == [f"{LOC}.0.bias", f"{LOC}.1.bias"] and report.unexpected == ["head.extra.weight"]
    assert "2 missing" in str(report) and first not in report.loaded
    expected = {**before, **{key: state[key] for key in report.loaded}}
    assert same(tiny, expected) and len(report.loaded) == len(before) - 3


def test_missing_weight_error_has_source_name_and_model_name(vgg):
    state = foreign.vgg("amdegroot", 5)
    del state["vgg.24.bias"]
    with pytest.raises(WeightsError, match=re.escape("1 missing: vgg.24.bias (backbone.extra.0.1.bias)")):
        load_weights(vgg, state)


def test_load_weights_reinitializes_class_heads_for_other_num_classes(vgg):
    before = copy_of(vgg)
    report = load_weights(vgg, foreign.vgg("amdegroot", 21))
    assert report.num_classes == 21 and report.problems == []
    assert report.new_heads == [f"{CLS}.{i}.{part}" for i in range(6) for part in ("weight", "bias")]
    text = str(report)
    assert "it has 21 classes with the background, unlike the model" in text
    assert f"the last layers of the class heads keep their values: {CLS}.0, {CLS}.1, " in text
    for key, value in vgg.state_dict().items():
        assert torch.equal(value, before[key]) == (key in report.new_heads), key


def test_class_heads_of_different_num_classes_raise(vgg):
    state = foreign.vgg("amdegroot", 5)
    state["conf.2.bias"] = torch.zeros(6 * 21)
    with pytest.raises(
        WeightsError, match=r"1 of another shape: conf.2.bias: \(126,\) in the file, \(30,\) in the model"
    ):
        load_weights(vgg, state)


def test_load_weights_rejects_files_that_are_not_checkpoints(tiny, tmp_path, state):
    text = tmp_path / "text.pth"
    text.write_text("weights")
    cases = [
        (tmp_path / "none.pth", FileNotFoundError, "no file '.*none.pth'; pass a checkpoint, a run folder"),
        (text, ValueError, r"text.pth cannot be read as a checkpoint"),
        (
            {"epoch": 3, "optimizer": {}},
            ValueError,
            "the mapping must hold a state dict .* got a mapping with epoch, opt",
        ),
        ({}, ValueError, "the mapping must hold a state dict"),
        ({"fc.weight": torch.zeros(1)}, ValueError, "names of no known system .* its first names are fc.weight"),
    ]
    for source, kind, message in cases:
        with pytest.raises(kind, match=message):
            load_weights(tiny, source)
    with pytest.raises(ValueError, match="unknown system 'amdegrot', did you mean 'amdegroot'"):
        load_weights(tiny, state, system="amdegrot")
    with pytest.raises(TypeError, match=r"model must be an ssd.SSD, .* got Linear"):
        load_weights(torch.nn.Linear(1, 1), state)


def test_load_weights_does_not_unpickle_a_module(tiny, tmp_path):
    file = tmp_path / "checkpoint_ssd300.pth.tar"
    torch.save({"epoch": 1, "model": torch.nn.Linear(1, 1), "optimizer": None}, file)
    with pytest.raises(ValueError) as error:
        load_weights(tiny, file)
    text = str(error.value)
    assert "it holds pickled torch.nn.modules.linear.Linear, and loading that runs code" in text
    assert "torch.save((c['model'] if isinstance(c, dict) else c).state_dict(), 'weights.pth')" in text


def test_load_weights_rejects_weights_of_another_network(vgg, tiny):
    with pytest.raises(WeightsError, match="which supports ssd300_vgg16 and ssd512_vgg16; it has no names for"):
        load_weights(tiny, foreign.vgg("amdegroot", 5))
    with pytest.raises(ValueError, match="torchvision has no ssd_tiny; it has ssd300_vgg16 and ssdlite320"):
        export_weights(tiny, "torchvision")
    with pytest.raises(ValueError, match="amdegroot has no ssd_tiny"):
        export_weights(tiny, "amdegroot")
    with pytest.raises(ValueError, match="unknown system 'torchvison', did you mean 'torchvision'"):
        export_weights(vgg, "torchvison")
    with pytest.raises(WeightsError, match="no weight fits ssd300_vgg16"):
        load_weights(vgg, {"vgg.0.weight": torch.zeros(2)}, strict=False)


def test_load_weights_rejects_nan(tiny, state):
    before = copy_of(tiny)
    state[f"{LOC}.0.bias"][1] = torch.nan
    with pytest.raises(WeightsError, match=rf"the mapping holds NaN or inf in {LOC}.0.bias; nothing was loaded"):
        load_weights(tiny, state, strict=False)
    assert same(tiny, before)


@pytest.mark.parametrize("wrap", ["bare", "module.", "_orig_mod.", "model", "state_dict", "average"])
def test_load_weights_finds_state_dict_under_usual_keys(tiny, state, wrap):
    source = state
    if wrap.endswith("."):
        source = {wrap + key: value for key, value in state.items()}
    elif wrap == "average":  # this project's EMA, which is what gets evaluated
        source = {"model": copy_of(tiny), "average": {"module": state, "updates": 3}, "epoch": 1}
    elif wrap != "bare":
        source = {wrap: collections.OrderedDict(state), "optimizer": {"lr": 1.0}, "epoch": 1}
    load_weights(tiny, source)
    assert same(tiny, state)


def test_load_weights_casts_half_precision_to_model_dtype(tiny, state):
    load_weights(tiny, {key: value.half() if value.is_floating_point() else value for key, value in state.items()})
    assert all(p.dtype == torch.float32 for p in tiny.parameters())
    assert torch.equal(tiny.state_dict()[f"{LOC}.0.weight"], state[f"{LOC}.0.weight"].half().float())


def test_load_report_names_preset_and_warns_on_mismatch(vgg):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report = load_weights(
            build_model("ssd300_vgg16", 5, preset="amdegroot", prior_sizes="coco"), foreign.vgg("amdegroot", 5)
        )
    assert "trained with preset='amdegroot', prior_sizes='coco'" in str(report) and report.differences == []
    with pytest.warns(UserWarning, match="prior_sizes 'voc' instead of 'coco'"):
        report = load_weights(vgg, foreign.vgg("amdegroot", 5))
    assert (
        "WARNING: the model differs from the preset its weights were trained with: prior_sizes 'voc' instead of 'coco'"
        in str(report)
    )
    with pytest.warns(UserWarning, match="channels 'rgb' instead of 'bgr'"):
        assert load_weights(vgg, foreign.vgg("caffe", 5)).preset == "caffe"


@pytest.mark.parametrize(("classes", "sizes"), [(5, "lufficc_voc"), (21, "lufficc_voc"), (81, "coco")])
def test_lufficc_default_sizes_follow_num_classes(classes, sizes):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # any difference of rules
        report = load_weights(
            build_model("ssd300_vgg16", classes, preset="lufficc", prior_sizes=sizes), foreign.vgg("lufficc", classes)
        )
    assert report.options == {"prior_sizes": sizes}


def test_load_weights_warns_of_other_normalization(tiny, state):
    trained = build_model("ssd_tiny", 3, image_size=64, mean=[0.1, 0.2, 0.3])
    with pytest.warns(UserWarning, match=r"mean \(0.5, 0.5, 0.5\) instead of \(0.1, 0.2, 0.3\)$"):
        load_weights(tiny, {"model": state, "build_args": trained.build_args})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_weights(trained, {"model": state, "build_args": trained.build_args})


def test_training_starts_from_given_weights(tiny, state, tmp_path, capsys):
    file = tmp_path / "w.pth"
    torch.save(state, file)
    start_from(tiny, str(file))
    assert (
        same(tiny, state)
        and f"{file}: {len(state)} weights of ssd loaded, 0 of them renamed" in capsys.readouterr().out
    )
    del state[f"{LOC}.0.bias"]
    torch.save(state, file)
    with pytest.raises(ConfigError, match=rf"--weights {file}: .*\n  1 missing: {LOC}.0.bias"):
        start_from(tiny, str(file))
