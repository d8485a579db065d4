"""SSDlite on torchvision's MobileNetV2: ssdlite320_mobilenet_v2, with options for small objects."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from torch import Tensor, nn
from torchvision.models import mobilenet_v2

from ssd.models.backbone_weights import load_backbone
from ssd.models.detector import SSD, build_priors
from ssd.models.extractor import Extractor
from ssd.models.fpn import TopDown
from ssd.models.frozen import freeze_batch_norm
from ssd.models.heads import SSDHead, lite_extra, lite_predictor, normal_init
from ssd.presets import Preset
from ssd.prior_sizes import ratios_of_levels

# The first level of each stride is the expanded input of the block that leaves it, before that block's stride.
_EXPANSION_OF_STRIDE = {4: 4, 8: 7, 16: 14}


class MobileNetV2Extractor(Extractor):
    """MobileNetV2's features at strides 16 (block 14's expansion) and 32, and SSDlite's extra levels after them.

    Args:
        features: torchvision's `mobilenet_v2().features`.
        extra_channels: width of each extra level; each halves the resolution.
        min_stride: stride of the finest level, 16, 8 or 4.
    """

    def __init__(self, features: nn.Sequential, extra_channels: Sequence[int], min_stride: int):
        super().__init__()
        if min_stride not in _EXPANSION_OF_STRIDE:
            raise ValueError(f"min_stride must be one of 4, 8, 16, got {min_stride}")
        self.taps = tuple(block for stride, block in _EXPANSION_OF_STRIDE.items() if stride >= min_stride)
        self.features = features
        channels = [_width(features[tap].get_submodule("conv.0")) for tap in self.taps]
        channels.append(_width(features[-1]))
        self.extra = nn.ModuleList()
        for width in extra_channels:
            self.extra.append(lite_extra(channels[-1], width))
            channels.append(width)
        normal_init(self.extra)
        self.out_channels = tuple(channels)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Maps [B, 3, S, S] to the features of all levels, fine to coarse."""
        x, levels = images, []
        for i, block in enumerate(self.features):
            if i in self.taps:
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
    aspect_ratios: Sequence[Sequence[float]] | Sequence[float] = (2.0, 3.0),
    steps: Sequence[float] | None = None,
    weights_backbone: str | None = None,
    trainable_layers: int | None = None,
    freeze_bn: bool | None = None,
    min_stride: int = 16,
    width_mult: float = 1.0,
    extra_channels: Sequence[int] = (512, 256, 256, 128),
    head_width: int | None = None,
    fpn_width: int | None = None,
) -> SSD:
    """Builds SSDlite on MobileNetV2: depthwise separable heads and extra levels.

    Prior sizes are "linear" unless said otherwise: spaced evenly from 0.2 of the image (half of that for each level
    finer than stride 16) to 0.95, as in SSDlite.

    Args:
        num_classes: with the background.
        image_size: side of the input.
        preset: rules around the network.
        aspect_ratios: besides 1; one list for all levels, or one for each.
        steps: in pixels; None takes image size / cells.
        weights_backbone: a file with mobilenet_v2's weights, a name of torchvision, or None for a random start.
        trainable_layers: stages of the backbone that learn, 0..7 from the last; None is all.
        freeze_bn: keeps the backbone's BatchNorm at its loaded statistics; None does so when there are weights.
        min_stride: stride of the finest level; 8 or 4 add levels for small objects.
        width_mult: width of the backbone.
        extra_channels: width of each level after stride 32; their number sets the number of levels.
        head_width: narrows each level to this width before its heads; None keeps it.
        fpn_width: gives all levels this width and adds the coarse ones to the fine ones (FPN-lite); None leaves it out.
    """
    net = mobilenet_v2(weights=None, width_mult=width_mult, num_classes=1).features
    backbone: Extractor = MobileNetV2Extractor(net, extra_channels, min_stride)
    if weights_backbone is not None:
        load_backbone(backbone, weights_backbone, "mobilenet_v2")
    _freeze_stages(net, 7 if trainable_layers is None else trainable_layers)
    if freeze_bn if freeze_bn is not None else weights_backbone is not None:
        freeze_batch_norm(net)
    if fpn_width is not None:
        backbone = TopDown(backbone, fpn_width)
    levels = len(backbone.out_channels)
    ratios = ratios_of_levels(aspect_ratios, levels)
    priors = build_priors(backbone, image_size, preset, ratios, steps, smallest=0.2 * min_stride / 16)
    predictor = partial(lite_predictor, width=head_width)
    head = SSDHead(backbone.out_channels, priors.boxes_per_cell, num_classes, predictor, normal_init)
    return SSD(backbone, head, priors, preset, num_classes)


def _width(layer: nn.Module) -> int:
    """Channels that a convolution with its norm and activation puts out."""
    return layer.get_parameter("0.weight").shape[0]


def _freeze_stages(features: nn.Sequential, trainable: int) -> None:
    """Stops the gradients of all but the last `trainable` stages: stem, each block with a stride, last layer."""
    starts = [0, *(i for i, block in enumerate(features) if getattr(block, "_is_cn", False)), len(features) - 1]
    starts = [0, 1, *starts[1:]]  # the stem is apart from the first block
    if not 0 <= trainable <= len(starts):
        raise ValueError(f"trainable_layers must lie in 0..{len(starts)}, got {trainable}")
    for parameter in features[: starts[len(starts) - trainable] if trainable else len(features)].parameters():
        parameter.requires_grad_(False)
