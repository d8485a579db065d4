"""SSDlite on torchvision's MobileNetV2: ssdlite320_mobilenet_v2, with options for small objects and known layouts."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Literal, get_args

from torch import Tensor, nn

from ssd.models.backbone_weights import load_backbone
from ssd.models.detector import SSD, build_priors
from ssd.models.extractor import Extractor
from ssd.models.fpn import TopDown
from ssd.models.frozen import freeze_batch_norm, freeze_stages
from ssd.models.heads import (
    LITE_NORM,
    Predictors,
    SSDHead,
    lite_extra,
    lite_predictor,
    normal_init,
    point_predictor,
    separable_predictor,
    xavier_init,
)
from ssd.models.layers import InvertedResidual, mobilenet_v2_features
from ssd.models.mobilenet_v1 import TENSORFLOW_RATIOS, norm_extra
from ssd.models.same_padding import use_same_padding
from ssd.presets import Preset

# The variants differ in three ways: the first level is the expansion of block 14 or (lufficc) the output of block 13;
# extra levels are those of torchvision's SSDlite or inverted residual blocks; the heads have a bias or not.
# "tensorflow" is torchvision's layout with TensorFlow's padding and BatchNorm; "tensorflow_ssd" is not depthwise separable.
Layout = Literal["torchvision", "qfgaohao", "lufficc", "tensorflow", "tensorflow_ssd"]
_PLAIN = ("torchvision", "tensorflow", "tensorflow_ssd")  # initialized as SSDlite, with 128 channels at the end

# The level of each stride is the expansion of the block that follows it, before that block's strided convolution.
_EXPANSION_OF_STRIDE = {4: 4, 8: 7, 16: 14}


class MobileNetV2Extractor(Extractor):
    """MobileNetV2's features at strides 16 (block 14's expansion) and 32, and SSDlite's extra levels after them.

    Args:
        features: Torchvision's `mobilenet_v2().features`.
        extra_channels: Width of each extra level; each halves the resolution.
        min_stride: Stride of the finest level, 16, 8 or 4.
        layout: See `ssdlite320_mobilenet_v2`.
    """

    def __init__(self, features: nn.Sequential, extra_channels: Sequence[int], min_stride: int, layout: Layout):
        super().__init__()
        if min_stride not in _EXPANSION_OF_STRIDE:
            raise ValueError(f"min_stride must be one of 4, 8, 16, got {min_stride}")
        self.taps = tuple(block for stride, block in _EXPANSION_OF_STRIDE.items() if stride >= min_stride)
        self.expanded = layout != "lufficc"
        self.features = features
        axis = 0 if self.expanded else 1  # axis of the expansion's weights [out, in, 1, 1]
        channels = [features[tap].get_parameter("conv.0.0.weight").shape[axis] for tap in self.taps]
        channels.append(features[-1].get_parameter("0.weight").shape[0])
        self.extra = nn.ModuleList()
        for width in extra_channels:
            if layout == "tensorflow_ssd":
                self.extra.append(norm_extra(channels[-1], width // 2, width))
            else:
                self.extra.append((lite_extra if layout in _PLAIN else _inverted_extra)(channels[-1], width))
            channels.append(width)
        (normal_init if layout in _PLAIN else xavier_init)(self.extra)
        if layout.startswith("tensorflow"):
            use_same_padding(self)
        self.out_channels = tuple(channels)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Maps [B, 3, S, S] to the features of all levels, fine to coarse."""
        x, levels = images, []
        for i, block in enumerate(self.features):
            if i in self.taps and not self.expanded:
                levels.append(x)
            if i in self.taps and self.expanded:
                for depth, layer in enumerate(block.get_submodule("conv").children()):
                    x = layer(x)
                    if depth == 0:
                        levels.append(x)
            else:
                x = block(x)
        levels.append(x)
        for block in self.extra:
            x = block(x)
            levels.append(x)
        return levels


def ssdlite320_mobilenet_v2(
    num_classes: int,
    image_size: int,
    preset: Preset,
    *,
    aspect_ratios: Sequence[Sequence[float]] | Sequence[float] | None = None,
    weights_backbone: str | None = None,
    trainable_layers: int | None = None,
    freeze_bn: bool | None = None,
    min_stride: int = 16,
    width_mult: float = 1.0,
    extra_channels: Sequence[int] | None = None,
    head_width: int | None = None,
    fpn_width: int | None = None,
    layout: Layout = "torchvision",
) -> SSD:
    """Builds SSDlite on MobileNetV2: depthwise separable heads and extra levels.

    Prior sizes are "linear" by default: evenly spaced from 0.2 of the image (half of that for each level finer than
    stride 16) to 0.95, as in SSDlite.

    Args:
        num_classes: Number of classes with the background.
        image_size: Side of the input.
        preset: Rules around the network.
        aspect_ratios: Besides 1; one list for all levels, or one for each; None: 2 and 3, and in TensorFlow's layouts 2
            alone on the first level.
        weights_backbone: a file with mobilenet_v2's weights, a name of torchvision, or None for a random start.
        trainable_layers: Number of trainable backbone stages, 0..7, counted from the last; None is all.
        freeze_bn: Freezes the backbone's BatchNorm at its loaded statistics; None does so if weights are loaded.
        min_stride: Stride of the finest level; 8 or 4 add levels for small objects.
        width_mult: Width of the backbone.
        extra_channels: Width of each level after stride 32; their number sets the number of levels. None is 512, 256,
            256 and then 128 (64 in the other layouts).
        head_width: Projects each level to this width before its heads; None disables it.
        fpn_width: Projects all levels to this width and adds the coarse ones to the fine ones (FPN-lite); None disables it.
        layout: Variant of extra levels and heads: "torchvision"; or for weights of other systems "qfgaohao" (mb2-ssd-lite,
            at an input of 300), "lufficc" (mobilenet_v2_ssd320), "tensorflow" (ssdlite_mobilenet_v2_coco, at 300) or
            "tensorflow_ssd" (ssd_mobilenet_v2_coco, at 300).
    """
    if layout not in get_args(Layout):
        raise ValueError(f"layout must be one of {', '.join(get_args(Layout))}, got {layout!r}")
    if extra_channels is None:
        extra_channels = (512, 256, 256, 128 if layout in _PLAIN else 64)
    if aspect_ratios is None:
        aspect_ratios = TENSORFLOW_RATIOS if layout.startswith("tensorflow") else (2.0, 3.0)
    net = mobilenet_v2_features(width_mult, LITE_NORM if layout.startswith("tensorflow") else nn.BatchNorm2d)
    backbone: Extractor = MobileNetV2Extractor(net, extra_channels, min_stride, layout)
    if weights_backbone is not None:
        load_backbone(backbone, weights_backbone, "mobilenet_v2")
    freeze_stages(net, _stages(net), trainable_layers)
    if freeze_bn if freeze_bn is not None else weights_backbone is not None:
        freeze_batch_norm(net)
    if fpn_width is not None:
        backbone = TopDown(backbone, fpn_width)
    priors = build_priors(backbone, image_size, preset, aspect_ratios, smallest=0.2 * min_stride / 16)
    predictors = _predictors(layout, len(backbone.out_channels), head_width)
    init = normal_init if layout in _PLAIN else xavier_init
    head = SSDHead(backbone.out_channels, priors.boxes_per_cell, num_classes, predictors, init)
    return SSD(backbone, head, priors, preset, num_classes)


def _inverted_extra(in_channels: int, out_channels: int) -> nn.Module:
    """Returns the extra level of qfgaohao and lufficc: a MobileNetV2 block, half as wide inside, at least 64 channels."""
    return InvertedResidual(in_channels, out_channels, 2, max(64, out_channels // 2) / in_channels)


def _predictors(layout: Layout, levels: int, head_width: int | None) -> Predictors:
    if layout in ("torchvision", "tensorflow"):
        return partial(lite_predictor, width=head_width)
    if head_width is not None:
        raise ValueError(f"head_width {head_width} needs layout 'torchvision', got layout {layout!r}")
    if layout == "tensorflow_ssd":
        return point_predictor
    return [*[separable_predictor] * (levels - 1), point_predictor]


def _stages(features: nn.Sequential) -> list[int]:
    """Returns the first layer of each stage: the stem, the first block, every block with a stride, the last layer."""
    return [0, 1, *(i for i, block in enumerate(features) if getattr(block, "stride", 1) > 1), len(features) - 1]
