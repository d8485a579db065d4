"""ssd_tiny: a detector that can be trained from scratch on a CPU in minutes, for the demo and the tests."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from torch import Tensor, nn

from ssd.models.detector import SSD, build_priors
from ssd.models.extractor import Extractor
from ssd.models.heads import SSDHead, conv_predictor, xavier_init
from ssd.models.layers import Conv2dNormActivation
from ssd.presets import Preset


class TinyExtractor(Extractor):
    """Plain 3x3 convolutions with BatchNorm; one level each at strides 8, 16, 32 and 64."""

    def __init__(self, width: int, levels: int):
        super().__init__()
        layer = partial(Conv2dNormActivation, norm_layer=nn.BatchNorm2d, activation_layer=nn.ReLU)
        # stride 4 in the first layer: at full resolution, BatchNorm on a CPU costs more than all later layers
        self.stem = nn.Sequential(layer(3, 2 * width, kernel_size=7, stride=4, padding=3), layer(2 * width, 2 * width))
        self.stages = nn.ModuleList()
        channels = [2 * width]
        for i in range(levels):
            out = width * min(4 + 2 * i, 8)
            self.stages.append(nn.Sequential(layer(channels[-1], out, stride=2), layer(out, out)))
            channels.append(out)
        self.out_channels = tuple(channels[1:])

    def forward(self, images: Tensor) -> list[Tensor]:
        """Maps [B, 3, S, S] to the features of all levels, fine to coarse."""
        x, levels = self.stem(images), []
        for stage in self.stages:
            x = stage(x)
            levels.append(x)
        return levels


def ssd_tiny(
    num_classes: int,
    image_size: int,
    preset: Preset,
    *,
    aspect_ratios: Sequence[Sequence[float]] | Sequence[float] = (2.0,),
    width: int = 16,
    levels: int = 4,
) -> SSD:
    """Builds a small SSD of plain convolutions, about 80 million multiply-adds at an input of 160.

    Args:
        num_classes: Number of classes with the background.
        image_size: Side of the input.
        preset: Rules around the network; its prior sizes are spaced by one factor from 0.1 of the image.
        aspect_ratios: Besides 1; one list for all levels, or one for each.
        width: Channels of the first layer.
        levels: Strides 8, 16, ...
    """
    backbone = TinyExtractor(width, levels)
    priors = build_priors(backbone, image_size, preset, aspect_ratios, smallest=0.1)
    head = SSDHead(backbone.out_channels, priors.boxes_per_cell, num_classes, conv_predictor, xavier_init)
    return SSD(backbone, head, priors, preset, num_classes)
