"""SSD on VGG16: ssd300_vgg16 and ssd512_vgg16, with torchvision's VGG and torchvision's names of the weights."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from ssd.models.backbone_weights import load_backbone
from ssd.models.detector import SSD, build_priors
from ssd.models.extractor import Extractor
from ssd.models.frozen import freeze_stages
from ssd.models.heads import SSDHead, conv_predictor, xavier_init
from ssd.models.l2_norm import l2_norm
from ssd.models.layers import vgg16_features
from ssd.presets import Preset
from ssd.priors.sizes import SSD300_RATIOS, SSD512_RATIOS

Norm = Literal["l2", "batch"]


class Extra(NamedTuple):
    """One extra level: 1x1 to `mid` channels, then kernel x kernel to `out`."""

    mid: int
    out: int
    kernel: int = 3
    stride: int = 1
    padding: int = 0


SSD300_EXTRAS = (Extra(256, 512, 3, 2, 1), Extra(128, 256, 3, 2, 1), Extra(128, 256), Extra(128, 256))
SSD512_EXTRAS = (Extra(256, 512, 3, 2, 1), *(Extra(128, 256, 3, 2, 1),) * 3, Extra(128, 256, 4, 1, 1))


class VGGExtractor(Extractor):
    """VGG16 with fc6 and fc7 as (dilated) convolutions and the extra levels of SSD.

    The first level is conv4_3, whose values are far larger than those of the later levels. It is normalized to unit length
    over its channels and multiplied by a learned weight per channel (L2Norm), or normalized by BatchNorm.
    """

    def __init__(self, features: nn.Sequential, extras: Sequence[Extra], norm: Norm = "l2"):
        super().__init__()
        if norm not in get_args(Norm):
            raise ValueError(f"norm must be one of {', '.join(get_args(Norm))}, got {norm!r}")
        pools = [i for i, layer in enumerate(features) if isinstance(layer, nn.MaxPool2d)]
        pool4, pool5 = pools[3], pools[4]
        features[pools[2]] = nn.MaxPool2d(2, 2, ceil_mode=True)  # 75 -> 38 cells at an input of 300, as Caffe rounds
        self.norm = nn.BatchNorm2d(512) if norm == "batch" else None
        if self.norm is None:
            self.scale_weight = nn.Parameter(torch.full((512,), 20.0))
        self.features = nn.Sequential(*features[:pool4])  # to conv4_3
        fc = nn.Sequential(
            nn.MaxPool2d(kernel_size=3, stride=1, padding=1),  # pool5 keeps the resolution, so fc6 is dilated
            nn.Conv2d(512, 1024, kernel_size=3, padding=6, dilation=6),
            nn.ReLU(inplace=True),
            nn.Conv2d(1024, 1024, kernel_size=1),
            nn.ReLU(inplace=True),
        )
        blocks = [nn.Sequential(*features[pool4:pool5], fc)]
        channels = 1024
        for extra in extras:
            blocks.append(_extra_block(channels, extra))
            channels = extra.out
        for block in (fc, *blocks[1:]):
            xavier_init(block)
        self.extra = nn.ModuleList(blocks)
        self.out_channels = (512, 1024, *(extra.out for extra in extras))

    def forward(self, images: Tensor) -> list[Tensor]:
        """Maps [B, 3, S, S] to the features of all levels, fine to coarse."""
        x = self.features(images)
        levels = [l2_norm(x, self.scale_weight) if self.norm is None else self.norm(x)]
        for block in self.extra:
            x = block(x)
            levels.append(x)
        return levels


def _extra_block(in_channels: int, extra: Extra) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, extra.mid, kernel_size=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(extra.mid, extra.out, extra.kernel, extra.stride, extra.padding),
        nn.ReLU(inplace=True),
    )


def _ssd_vgg16(
    extras: Sequence[Extra],
    ratios: Sequence[Sequence[float]],
    num_classes: int,
    image_size: int,
    preset: Preset,
    *,
    aspect_ratios: Sequence[Sequence[float]] | Sequence[float] | None = None,
    weights_backbone: str | None = None,
    trainable_layers: int | None = None,
    norm: Norm = "l2",
) -> SSD:
    """Builds the paper's SSD on VGG16.

    ssd300_vgg16 has six levels and 8732 priors at an input size of 300, ssd512_vgg16 seven levels and 24564 at 512.

    Args:
        extras: The extra levels.
        ratios: Default of `aspect_ratios`.
        num_classes: Number of classes with the background.
        image_size: Side of the input.
        preset: Rules around the network.
        aspect_ratios: Besides 1; one list for all levels, or one for each; None takes the paper's.
        weights_backbone: Name of torchvision's weights, a file, or None for a random start.
        trainable_layers: Number of trainable VGG stages, 0..5, counted from the last; None is 4 with weights, 5 without.
        norm: Normalization of the first level, conv4_3: "l2", L2Norm (the paper), or "batch", BatchNorm (qfgaohao).
    """
    vgg = vgg16_features()
    stages = [0, *(i for i, layer in enumerate(vgg) if isinstance(layer, nn.MaxPool2d))][:5]
    if trainable_layers is None and weights_backbone is not None:
        trainable_layers = 4
    freeze_stages(vgg, stages, trainable_layers)
    backbone = VGGExtractor(vgg, extras, norm)
    if weights_backbone is not None:
        load_backbone(backbone, weights_backbone, "vgg16", preset.channels)
    priors = build_priors(backbone, image_size, preset, ratios if aspect_ratios is None else aspect_ratios)
    head = SSDHead(backbone.out_channels, priors.boxes_per_cell, num_classes, conv_predictor, xavier_init)
    return SSD(backbone, head, priors, preset, num_classes)


ssd300_vgg16 = partial(_ssd_vgg16, SSD300_EXTRAS, SSD300_RATIOS)
ssd512_vgg16 = partial(_ssd_vgg16, SSD512_EXTRAS, SSD512_RATIOS)
