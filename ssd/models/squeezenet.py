"""SSDlite on torchvision's SqueezeNet 1.1: ssdlite300_squeezenet1_1, qfgaohao's sq-ssd-lite."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from ssd.models.backbone_weights import load_backbone
from ssd.models.detector import SSD, build_priors
from ssd.models.extractor import Extractor
from ssd.models.frozen import freeze_stages
from ssd.models.heads import SSDHead, depthwise_layers, point_predictor, xavier_init
from ssd.models.mobilenet_v1 import plain_extra
from ssd.presets import Preset

# Channels (middle, out) and padding of the extra levels; the first pads by 2, from 17 cells to 10 at an input of 300.
_EXTRAS = ((256, 512, 2), (256, 512, 1), (128, 256, 1), (128, 256, 1), (128, 256, 1))


class SqueezeNetExtractor(Extractor):
    """SqueezeNet's features at stride 16, the input of its last Fire module, and five extra levels after that module."""

    def __init__(self) -> None:
        super().__init__()
        from torchvision.models import squeezenet1_1  # takes a second

        self.features = squeezenet1_1(weights=None, num_classes=1).features
        for layer in self.features:
            if isinstance(layer, nn.MaxPool2d):
                layer.ceil_mode = False  # unlike torchvision: 17 cells, not 18
        channels = [512]
        self.extras = nn.ModuleList()
        for mid, out, padding in _EXTRAS:
            self.extras.append(plain_extra(channels[-1], mid, out, "qfgaohao_lite", padding))
            channels.append(out)
        xavier_init(self.extras)
        self.out_channels = tuple(channels)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Maps [B, 3, S, S] to the features of all levels, fine to coarse."""
        levels = [self.features[:-1](images)]
        x = self.features[-1](levels[0])
        for block in self.extras:
            x = block(x)
            levels.append(x)
        return levels


def ssdlite300_squeezenet1_1(
    num_classes: int,
    image_size: int,
    preset: Preset,
    *,
    aspect_ratios: Sequence[Sequence[float]] | Sequence[float] = (2.0, 3.0),
    weights_backbone: str | None = None,
    trainable_layers: int | None = None,
) -> SSD:
    """Builds qfgaohao's sq-ssd-lite: six levels from stride 16, 2568 priors at an input of 300.

    Args:
        num_classes: Number of classes with the background.
        image_size: Side of the input.
        preset: Rules around the network.
        aspect_ratios: Besides 1; one list for all levels, or one for each.
        weights_backbone: a file with squeezenet1_1's weights, a name of torchvision, or None for a random start.
        trainable_layers: Number of trainable backbone stages, 0..4, counted from the last; None is all.
    """
    backbone = SqueezeNetExtractor()
    if weights_backbone is not None:
        load_backbone(backbone, weights_backbone, "squeezenet1_1")
    pools = [i for i, layer in enumerate(backbone.features) if isinstance(layer, nn.MaxPool2d)]
    freeze_stages(backbone.features, [0, *pools], trainable_layers)
    priors = build_priors(backbone, image_size, preset, aspect_ratios)
    predictors = [*[depthwise_layers] * (len(backbone.out_channels) - 1), point_predictor]
    head = SSDHead(backbone.out_channels, priors.boxes_per_cell, num_classes, predictors, xavier_init)
    return SSD(backbone, head, priors, preset, num_classes)
