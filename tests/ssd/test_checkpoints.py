"""Tests load_weights and export_weights with names, shapes and orders of other systems' checkpoints."""

import argparse
from functools import cache

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models import detection, resnet18

from ssd import build_model, export_weights, load_weights
from tests.ssd import foreign_weights as foreign

CLASSES = 5
MODELS = {
    "vgg": ("ssd300_vgg16", {}),
    "vgg_bn": ("ssd300_vgg16", {"norm": "batch"}),
    "resnet": ("ssd300_resnet18", {"preset": "nvidia"}),
    "mb2_qfgaohao": ("ssdlite320_mobilenet_v2", {"layout": "qfgaohao", "image_size": 300, "preset": "qfgaohao"}),
    "mb2_lufficc": ("ssdlite320_mobilenet_v2", {"layout": "lufficc", "preset": "lufficc"}),
}
FOREIGN = {
    "amdegroot": ("vgg", lambda: foreign.vgg("amdegroot", CLASSES)),
    "lufficc": ("vgg", lambda: foreign.vgg("lufficc", CLASSES)),
    "lufficc_v1": ("vgg", lambda: foreign.vgg("lufficc_v1", CLASSES)),
    "qfgaohao": ("vgg", lambda: foreign.vgg("qfgaohao", CLASSES)),
    "caffe": ("vgg", lambda: foreign.vgg("caffe", CLASSES)),
    "sgrvinod": ("vgg", lambda: foreign.vgg("sgrvinod", CLASSES)),
    "nvidia": ("resnet", lambda: foreign.nvidia(CLASSES, constants=False)),
    "qfgaohao mb2": ("mb2_qfgaohao", lambda: foreign.mobilenet_v2("qfgaohao", CLASSES)),
    "lufficc mb2": ("mb2_lufficc", lambda: foreign.mobilenet_v2("lufficc", CLASSES)),
}
# every model differs from some system's rules, which has a test of its own
pytestmark = pytest.mark.filterwarnings("ignore:the model has other rules")


@cache
def model_of(kind):
    """A model shared by tests that overwrite its weights."""
    name, options = MODELS[kind]
    return build_model(name, CLASSES, **options).eval()


@pytest.mark.parametrize("case", FOREIGN)
def test_load_weights_maps_every_weight(case):
    kind, make = FOREIGN[case]
    model, state = model_of(kind), make()
    report = load_weights(model, state)
    assert report.system == case.split()[0] and report.problems == [] and report.num_classes == CLASSES
    assert len(report.loaded) == len(state) == len(model.state_dict())
    assert report.renamed == len(state.keys() - model.state_dict().keys()) > 0
    # both list their weights in the order of the network, so number i belongs to weight i
    for i, (key, value) in enumerate(model.state_dict().items(), start=1):
        assert (value == i).all(), key


@pytest.mark.parametrize("case", ["torchvision", *FOREIGN])
def test_export_and_load_round_trip_is_bit_equal(case):
    kind = FOREIGN[case][0] if case in FOREIGN else "vgg"
    model = model_of(kind)
    for parameter in model.parameters():
        parameter.data.copy_(torch.linspace(0, 1, parameter.numel()).view_as(parameter))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    exported = export_weights(model, case.split()[0])
    if case in FOREIGN:
        assert {k: v.shape for k, v in exported.items()} == {k: v.shape for k, v in FOREIGN[case][1]().items()}
    for parameter in model.parameters():
        parameter.data.zero_()
    load_weights(model, exported)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_load_weights_with_batch_norm_instead_of_l2norm():
    state = foreign.vgg("qfgaohao", CLASSES)
    del state["source_layer_add_ons.0.scale"]
    state |= {f"source_layer_add_ons.0.{k}": torch.full((512,), 7.0) for k in ("weight", "bias")}
    state |= {f"source_layer_add_ons.0.running_{k}": torch.full((512,), 8.0) for k in ("mean", "var")}
    report = load_weights(model_of("vgg_bn"), state)  # of an old PyTorch: no num_batches_tracked
    norm = model_of("vgg_bn").backbone.norm
    assert report.problems == [] and (norm.bias == 7).all() and (norm.running_var == 8).all()


def test_nvidia_head_rows_are_reordered():
    state = foreign.nvidia(CLASSES)
    # row k * A + a of a level with A = 6
    state["loc.1.bias"] = torch.tensor([10.0 * k + a for k in range(4) for a in range(6)])
    state["conf.1.bias"] = torch.tensor([10.0 * k + a for k in range(CLASSES) for a in range(6)])
    model = model_of("resnet")
    report = load_weights(model, state)
    assert report.dropped == ["compute_loss.dboxes", "postprocess.dboxes_xywh"]
    head = model.head
    expected = [10.0 * k + a for a in range(6) for k in range(4)]
    assert head.regression_head.module_list[1].bias.tolist() == expected
    expected = [10.0 * k + a for a in range(6) for k in range(CLASSES)]
    assert head.classification_head.module_list[1].bias.tolist() == expected


def test_sgrvinod_box_rows_are_reordered():
    state = foreign.vgg("sgrvinod", CLASSES)
    # its order is 1, 1', 2, 3, 1/2, 1/3; ours 1, 1', 2, 1/2, 3, 1/3
    ratios = torch.tensor([1.0, 1.1, 2.0, 3.0, 0.5, 0.333])
    state["pred_convs.loc_conv7.bias"] = ratios.repeat_interleave(4)
    model = model_of("vgg")
    load_weights(model, state)
    ours = model.head.regression_head.module_list[1].bias.view(6, 4)[:, 0]
    torch.testing.assert_close(ours, torch.tensor([1.0, 1.1, 2.0, 0.5, 3.0, 0.333]))


class Nvidia(nn.Module):
    """NVIDIA's SSD300 on ResNet-18, put together from its description; outputs are shape-major."""

    def __init__(self, state):
        super().__init__()
        self.feature_extractor = nn.Module()
        layers = nn.Sequential(*list(resnet18(weights=None).children())[:7])
        layers[6][0].conv1.stride = layers[6][0].downsample[0].stride = (1, 1)
        self.feature_extractor.feature_extractor = layers
        self.additional_blocks = nn.ModuleList()
        for i in range(5):
            first, second = (state[f"additional_blocks.{i}.{k}.weight"].shape for k in (0, 3))
            last = nn.Conv2d(second[1], second[0], 3, *((2, 1) if i < 3 else (1, 0)), bias=False)
            norms = nn.BatchNorm2d(first[0]), nn.BatchNorm2d(second[0])
            convs = nn.Conv2d(first[1], first[0], 1, bias=False), last
            block = nn.Sequential(convs[0], norms[0], nn.ReLU(), convs[1], norms[1], nn.ReLU())
            self.additional_blocks.append(block)
        self.head = {k: v for k, v in state.items() if k.startswith(("loc", "conf"))}
        self.load_state_dict({k: v for k, v in state.items() if k not in self.head})

    def forward(self, x):
        features = [self.feature_extractor.feature_extractor(x)]
        for block in self.additional_blocks:
            features.append(block(features[-1]))
        outputs = []
        for head, columns in (("loc", 4), ("conf", CLASSES)):
            levels = []
            for i, f in enumerate(features):
                out = F.conv2d(f, self.head[f"{head}.{i}.weight"], self.head[f"{head}.{i}.bias"], padding=1)
                levels.append(out.view(len(x), columns, -1))
            outputs.append(torch.cat(levels, dim=2))
        return outputs


def test_nvidia_network_outputs_agree():
    torch.manual_seed(0)
    state = {}
    for name, value in foreign.nvidia(CLASSES, constants=False).items():
        fan = value[0].numel() if value.dim() == 4 else 1
        state[name] = torch.randn(value.shape) * (2 / fan) ** 0.5
        if name.endswith("running_var"):
            state[name] = torch.rand(value.shape) + 0.5
        if name.endswith("tracked"):
            state[name] = torch.tensor(1)
    theirs, ours = Nvidia(state).eval(), model_of("resnet")
    checkpoint = {"epoch": 3, "iteration": 9, "label_map": {1: "person"}, "model": state}
    load_weights(ours, {**checkpoint, "model": {f"module.{k}": v for k, v in state.items()}})
    image = torch.randn(1, 3, 300, 300)
    with torch.no_grad():
        shape_major, cell_major = theirs(image), ours.forward_raw(image)
    # their prior of level, box a and cell c is start + a * cells + c, ours start + c * A + a
    start, places = 0, []
    for cells, boxes in zip((38 * 38, 19 * 19, 100, 25, 9, 1), foreign.BOXES, strict=True):
        places += [start + a * cells + c for c in range(cells) for a in range(boxes)]
        start += cells * boxes
    for theirs_out, ours_out in zip(shape_major, cell_major, strict=True):
        torch.testing.assert_close(theirs_out[:, :, places].transpose(1, 2), ours_out, rtol=1e-4, atol=1e-4)


def test_torchvision_ssdlite_round_trip_is_bit_equal(tmp_path):
    torch.manual_seed(0)
    none = {"weights": None, "weights_backbone": None, "num_classes": CLASSES}
    theirs = detection.ssdlite320_mobilenet_v3_large(**none).eval()
    state = {f"module.{k}": v for k, v in theirs.state_dict().items()}
    args = argparse.Namespace(data_path="coco", lr=0.15)  # torchvision's script keeps its command line, others numpy's
    best = np.float64(0.21)
    torch.save({"model": state, "optimizer": {}, "args": args, "best": best}, tmp_path / "model_1.pth")
    ours = build_model("ssdlite320_mobilenet_v3_large", CLASSES).eval()
    report = load_weights(ours, tmp_path / "model_1.pth")
    assert (report.system, report.preset, report.renamed, report.differences) == ("torchvision", "torchvision", 0, [])
    image = torch.rand(1, 3, 320, 320)

    def forward(model):
        batch, _ = model.transform(list(image))
        heads = model.head(list(model.backbone(batch.tensors).values()))
        return heads["bbox_regression"], heads["cls_logits"]

    with torch.no_grad():
        expected, got = forward(theirs), ours.forward_raw(ours.normalize(image))
        assert all(torch.equal(a, b) for a, b in zip(expected, got, strict=True))
        again = detection.ssdlite320_mobilenet_v3_large(**none).eval()
        again.load_state_dict(export_weights(ours, "torchvision"))
        assert all(torch.equal(a, b) for a, b in zip(expected, forward(again), strict=True))


@pytest.mark.slow
def test_torchvision_ssd300_loads_export():
    theirs = detection.ssd300_vgg16(weights=None, weights_backbone=None, num_classes=CLASSES)
    assert load_weights(model_of("vgg"), theirs.state_dict()).system == "torchvision"
    exported = export_weights(model_of("vgg"), "torchvision")
    assert all(torch.equal(exported[key], value) for key, value in theirs.state_dict().items())
    theirs.load_state_dict(exported)


def test_backbone_file_fills_backbone_only():
    model = model_of("vgg")
    for parameter in model.parameters():
        parameter.data.zero_()
    state = foreign.vgg("amdegroot", CLASSES)
    base = {key.removeprefix("vgg."): value for key, value in state.items() if key.startswith("vgg.")}
    report = load_weights(model, base)
    assert report.system == "vgg16_reducedfc" and len(report.loaded) == 30 and report.problems == []
    assert len(report.kept) == 71 - 30 and "backbone.scale_weight" in report.kept
    assert (model.backbone.extra[0][7][3].bias == state["vgg.33.bias"][0]).all()
    assert all((p == 0).all() for p in model.head.parameters())
