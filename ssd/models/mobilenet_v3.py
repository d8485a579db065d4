"""SSDlite on torchvision's MobileNetV3: ssdlite320_mobilenet_v3_large, with torchvision's names of the weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from ssd.models.backbone_weights import load_backbone
from ssd.models.detector import SSD, build_priors
from ssd.models.extractor import Extractor
from ssd.models.frozen import freeze_batch_norm, freeze_stages
from ssd.models.heads import LITE_NORM, SSDHead, lite_extras, lite_predictor, normal_init
from ssd.models.layers import SqueezeExcitation
from ssd.presets import Preset


class MobileNetV3Extractor(Extractor):
    """MobileNetV3's features at strides 16 (the last strided block's expansion) and 32, and SSDlite's extra levels.

    Args:
        features: Torchvision's `mobilenet_v3_large().features`.
        extra_channels: Width of each extra level; each halves the resolution.
    """

    def __init__(self, features: nn.Sequential, extra_channels: Sequence[int]):
        super().__init__()
        tap = _stages(features)[-2]
        block = features[tap].get_submodule("block")
        assert isinstance(block, nn.Sequential)
        self.features = nn.Sequential(
            nn.Sequential(*features[:tap], block[0]), nn.Sequential(block[1:], *features[tap + 1 :])
        )
        channels = [_width(block[0]), _width(features[-1])]
        self.extra = lite_extras(channels, extra_channels)
        self.out_channels = tuple(channels)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Maps [B, 3, S, S] to the features of all levels, fine to coarse."""
        x, levels = images, []
        for block in (*self.features, *self.extra):
            x = block(x)
            levels.append(x)
        return levels


class LinearSqueezeExcitation(SqueezeExcitation):
    """SqueezeExcitation that is trained on a CPU by matrix products: oneDNN is slow at images of one pixel."""

    def _scale(self, input: Tensor) -> Tensor:
        if not self.training or input.device.type != "cpu":
            return super()._scale(input)
        x: Tensor = self.avgpool(input).flatten(1)
        x = self.activation(F.linear(x, self.fc1.weight.flatten(1), self.fc1.bias))
        x = self.scale_activation(F.linear(x, self.fc2.weight.flatten(1), self.fc2.bias))
        return x[:, :, None, None]


def ssdlite320_mobilenet_v3_large(
    num_classes: int,
    image_size: int,
    preset: Preset,
    *,
    aspect_ratios: Sequence[Sequence[float]] | Sequence[float] = (2.0, 3.0),
    weights_backbone: str | None = None,
    trainable_layers: int | None = None,
    freeze_bn: bool = False,
    reduced_tail: bool | None = None,
    extra_channels: Sequence[int] = (512, 256, 256, 128),
) -> SSD:
    """Builds torchvision's SSDlite on MobileNetV3-Large: 3234 priors at its own input size of 320.

    Args:
        num_classes: Number of classes with the background.
        image_size: Side of the input.
        preset: Rules around the network.
        aspect_ratios: Besides 1; one list for all levels, or one for each.
        weights_backbone: a file with mobilenet_v3_large's weights, a name of torchvision, or None for a random start.
        trainable_layers: Number of trainable backbone stages, 0..6, counted from the last; None is all.
        freeze_bn: Freezes the backbone's BatchNorm at its loaded statistics.
        reduced_tail: Halves the width of the last blocks (480 channels at stride 32 instead of 960). None does so
            without weights, as torchvision; torchvision's released detector has the reduced tail, its ImageNet weights
            the full one.
        extra_channels: Width of each level after stride 32; their number sets the number of levels.
    """
    from torchvision import models, ops  # takes a second

    reduced = weights_backbone is None if reduced_tail is None else reduced_tail
    net = models.mobilenet_v3_large(weights=None, norm_layer=LITE_NORM, reduced_tail=reduced, num_classes=1)
    for layer in net.modules():
        if type(layer) is ops.SqueezeExcitation:
            layer.__class__ = LinearSqueezeExcitation
    if weights_backbone is None:
        normal_init(net)
    else:
        load_backbone(net, weights_backbone, "mobilenet_v3")
    freeze_stages(net.features, _stages(net.features), trainable_layers)
    if freeze_bn:
        freeze_batch_norm(net.features)
    backbone = MobileNetV3Extractor(net.features, extra_channels)
    priors = build_priors(backbone, image_size, preset, aspect_ratios)
    head = SSDHead(backbone.out_channels, priors.boxes_per_cell, num_classes, lite_predictor, normal_init)
    return SSD(backbone, head, priors, preset, num_classes)


def _stages(features: nn.Sequential) -> list[int]:
    """Returns the first layer of each stage: the stem, every block with a stride, the last layer."""
    return [0, *(i for i, block in enumerate(features) if getattr(block, "_is_cn", False)), len(features) - 1]


def _width(layer: nn.Module) -> int:
    """Returns the output channels of a convolution with its norm and activation."""
    return layer.get_parameter("0.weight").shape[0]
