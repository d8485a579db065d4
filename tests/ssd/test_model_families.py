"""Tests backbones and layouts: channels, grids, parameter counts, options and backbone weights."""

import pytest
import torch
import torchvision
from torch import nn

from ssd import build_model
from ssd.models.resnet import BUILDERS


@pytest.mark.parametrize(
    ("depth", "first", "last", "parameters"), [(18, 256, 128, 2_782_784), (34, 256, 256, 8_170_304)]
)
def test_resnet_with_basic_blocks(depth, first, last, parameters):
    model = build_model(f"ssd300_resnet{depth}", 81, preset="nvidia")
    assert model.backbone.out_channels == (first, 512, 512, 256, 256, last)
    assert [f[0] for f in model.prior_config.feature_sizes] == [38, 19, 10, 5, 3, 1] and len(model.priors) == 8732
    assert sum(p.numel() for p in model.backbone.features.parameters()) == parameters


def test_resnet_with_bottlenecks():
    model = build_model("ssd300_resnet50", 5, preset="nvidia", trainable_layers=1, freeze_bn=True).train()
    assert model.backbone.out_channels == (1024, 512, 512, 256, 256, 256) and len(model.priors) == 8732
    first = model.backbone.features.layer3[0]
    assert (first.conv1.stride, first.conv2.stride, first.downsample[0].stride) == ((1, 1),) * 3
    learning = {name.split(".")[0] for name, p in model.backbone.features.named_parameters() if p.requires_grad}
    assert learning == {"layer3"}
    norms = [m for m in model.backbone.features.modules() if isinstance(m, nn.BatchNorm2d)]
    assert not any(m.training for m in norms) and model.backbone.extra[0][1].training
    # 1x1, norm, ReLU, 3x3, norm, ReLU without biases, as NVIDIA's weights have it
    assert [k for k in model.backbone.extra[3].state_dict() if k.endswith(("weight", "bias"))] == [
        "0.weight", "1.weight", "1.bias", "3.weight", "4.weight", "4.bias",
    ]  # fmt: skip
    assert set(BUILDERS) == {f"ssd300_resnet{depth}" for depth in (18, 34, 50, 101, 152)}
    with pytest.raises(ValueError, match=r"trainable_layers must be in 0\.\.4, got 5"):
        build_model("ssd300_resnet18", 2, trainable_layers=5)


def test_resnet_loads_torchvision_weights(monkeypatch):
    source = torchvision.models.resnet18(weights=None)
    weights = torchvision.models.ResNet18_Weights
    monkeypatch.setattr(weights, "get_state_dict", lambda self, **kwargs: source.state_dict())  # no download
    model = build_model("ssd300_resnet18", 3, weights_backbone="ResNet18_Weights.IMAGENET1K_V1", image_size=321)
    assert torch.equal(model.backbone.features.layer3[1].conv2.weight, source.layer3[1].conv2.weight)
    assert [f[0] for f in model.prior_config.feature_sizes] == [41, 21, 11, 6, 4, 2]  # another size, another grid
    assert len(model.priors) == 4 * 41**2 + 6 * (21**2 + 11**2 + 6**2) + 4 * (4**2 + 2**2)


@pytest.mark.parametrize(
    ("options", "width", "parameters"),
    [({}, 480, 3_440_060), ({"reduced_tail": True}, 480, 3_440_060), ({"reduced_tail": False}, 960, None)],
)
def test_mobilenet_v3_full_and_reduced_tail(options, width, parameters):
    model = build_model("ssdlite320_mobilenet_v3_large", 91, **options)
    assert model.backbone.out_channels == (672, width, 512, 256, 256, 128)
    assert len(model.priors) == 3234
    if parameters:
        assert sum(p.numel() for p in model.parameters()) == parameters  # of torchvision's released weights


def test_mobilenet_v3_loads_torchvision_weights(monkeypatch):
    source = torchvision.models.mobilenet_v3_large(weights=None)
    weights = torchvision.models.MobileNet_V3_Large_Weights
    monkeypatch.setattr(weights, "get_state_dict", lambda self, **kwargs: source.state_dict())  # no download
    name = "MobileNet_V3_Large_Weights.IMAGENET1K_V1"
    options = {"weights_backbone": name, "trainable_layers": 2, "image_size": 160}
    model = build_model("ssdlite320_mobilenet_v3_large", 3, **options)
    # weights bring the full tail, as in torchvision, and a checkpoint of the model remembers it
    assert model.backbone.out_channels[1] == 960 and model.build_args["reduced_tail"] is False
    assert torch.equal(model.backbone.features[0][13][0].weight, source.features[13].block[0][0].weight)
    assert torch.equal(model.backbone.features[1][-1][0].weight, source.features[16][0].weight)
    # all but the last two stages are frozen: those of the last strided block, split between both parts, and the last layer
    rest = {".".join(name.split(".")[:3]) for name, p in model.backbone.named_parameters() if not p.requires_grad}
    assert rest == {f"features.0.{i}" for i in range(13)}
    with pytest.raises(ValueError, match=r"of another shape: features\.13\.block\.3"):
        build_model("ssdlite320_mobilenet_v3_large", 3, reduced_tail=True, **options)


def test_vgg_batch_norm_instead_of_l2_norm():
    model = build_model("ssd300_vgg16", 2, norm="batch", image_size=300, preset="qfgaohao").train()
    assert "backbone.scale_weight" not in model.state_dict()
    assert model.backbone.norm.weight.shape == (512,)
    x = torch.rand(1, 3, 300, 300)
    with torch.no_grad():
        first = model.backbone(x)[0]
    torch.testing.assert_close(first.mean(dim=(0, 2, 3)), torch.zeros(512), rtol=0, atol=1e-4)
    with pytest.raises(ValueError, match="norm must be one of l2, batch, got 'layer'"):
        build_model("ssd300_vgg16", 2, norm="layer")


@pytest.mark.parametrize(
    ("layout", "size", "channels", "priors"),
    [("qfgaohao", 300, (576, 1280, 512, 256, 256, 64), 3000), ("lufficc", 320, (96, 1280, 512, 256, 256, 64), 3234)],
)
def test_mobilenet_v2_layouts(layout, size, channels, priors):
    model = build_model("ssdlite320_mobilenet_v2", 21, preset=layout, layout=layout, image_size=size).eval()
    assert model.backbone.out_channels == channels and len(model.priors) == priors
    # inverted residual blocks: the widths inside are 256, 128, 128, 64 and the last convolution has no activation
    assert [block.conv[1][0].groups for block in model.backbone.extra] == [256, 128, 128, 64]
    heads = model.head.classification_head.module_list
    assert list(heads[0].state_dict())[:4] == ["0.weight", "0.bias", "1.weight", "1.bias"]
    assert isinstance(heads[5], nn.Conv2d) and heads[5].kernel_size == (1, 1)
    with torch.no_grad():
        features = model.backbone(torch.rand(1, 3, size, size))
    assert tuple(f.shape[1] for f in features) == channels
    if layout == "qfgaohao":  # the expansion of block 14, after its ReLU6
        assert features[0].min() >= 0
    else:  # the sum that leaves block 13
        assert features[0].min() < 0
    with pytest.raises(ValueError, match="head_width 8 needs layout 'torchvision'"):
        build_model("ssdlite320_mobilenet_v2", 2, layout=layout, head_width=8)


@pytest.mark.slow
def test_custom_ratios_and_sizes_for_every_family():
    for name in ("ssd300_vgg16", "ssd300_resnet18", "ssdlite320_mobilenet_v3_large"):
        sizes = (20, 40, 80, 120, 160, 200, 240)
        model = build_model(name, 2, prior_sizes=sizes, aspect_ratios=[1.5], prior_order="grouped")
        assert model.prior_config.boxes_per_cell == (4,) * 6 and model.prior_config.order == "grouped"
        assert model.prior_config.max_sizes[-1] == (240.0,)
        each = build_model(name, 2, aspect_ratios=[[2], [2], [2, 3], [], [3], [2]]).eval()
        assert each.prior_config.boxes_per_cell == (4, 4, 6, 2, 4, 4)
        with torch.no_grad():
            loc, _ = each.forward_raw(torch.zeros(1, 3, each.image_size, each.image_size))
        assert loc.shape == (1, len(each.priors), 4)
