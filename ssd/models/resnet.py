"""SSD300 on torchvision's ResNets, as NVIDIA's: ssd300_resnet18, 34, 50, 101 and 152."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial

from torch import Tensor, nn

from ssd.models.backbone_weights import load_backbone
from ssd.models.detector import SSD, build_priors
from ssd.models.extractor import Extractor
from ssd.models.frozen import freeze_batch_norm, freeze_stages
from ssd.models.heads import SSDHead, conv_predictor, xavier_init
from ssd.presets import Preset
from ssd.priors.sizes import SSD300_RATIOS

DEPTHS = (18, 34, 50, 101, 152)
# conv1, bn1, relu, maxpool and layer1 to layer3; layer4 is not used
_LAYERS = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3")
_STAGES = tuple(_LAYERS.index(name) for name in ("conv1", "layer1", "layer2", "layer3"))
# Width of the 1x1 layer of each extra level; the first three levels halve the resolution, the others have no padding.
_MIDS = (256, 256, 128, 128, 128)
_HALVING = 3


class ResNetExtractor(Extractor):
    """A ResNet through layer3, kept at stride 8 (38 x 38 cells at an input of 300), and five extra levels.

    Args:
        features: Torchvision's layers by their names, conv1 to layer3.
        extra_channels: Width of each extra level.
    """

    def __init__(self, features: nn.Sequential, extra_channels: Sequence[int]):
        super().__init__()
        first = features.get_submodule("layer3.0")
        # torchvision strides conv1 in basic blocks and conv2 in bottlenecks
        for name in ("conv1", "conv2", "downsample.0"):
            conv = first.get_submodule(name)
            assert isinstance(conv, nn.Conv2d)
            conv.stride = (1, 1)
        self.features = features
        channels = [first.get_parameter("downsample.0.weight").shape[0]]
        self.extra = nn.ModuleList()
        for i, (mid, out) in enumerate(zip(_MIDS, extra_channels, strict=True)):
            self.extra.append(_extra_block(channels[-1], mid, out, halve=i < _HALVING))
            channels.append(out)
        xavier_init(self.extra)
        self.out_channels = tuple(channels)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Maps [B, 3, S, S] to the features of all levels, fine to coarse."""
        levels = [self.features(images)]
        for block in self.extra:
            levels.append(block(levels[-1]))
        return levels


def ssd300_resnet(
    depth: int,
    num_classes: int,
    image_size: int,
    preset: Preset,
    *,
    aspect_ratios: Sequence[Sequence[float]] | Sequence[float] = SSD300_RATIOS,
    weights_backbone: str | None = None,
    trainable_layers: int | None = None,
    freeze_bn: bool = False,
) -> SSD:
    """Builds NVIDIA's SSD300 on a ResNet: six levels, 8732 priors at its own input size of 300.

    Args:
        depth: One of DEPTHS.
        num_classes: Number of classes with the background.
        image_size: Side of the input.
        preset: Rules around the network.
        aspect_ratios: Besides 1; one list for all levels, or one for each.
        weights_backbone: a file with the ResNet's weights, a name of torchvision, or None for a random start.
        trainable_layers: Number of trainable stages (conv1 with bn1, layer1, layer2, layer3), 0..4, counted from the
            last; None is all.
        freeze_bn: Freezes the backbone's BatchNorm at its loaded statistics.
    """
    from torchvision.models import get_model  # takes a second

    net = get_model(f"resnet{depth}", weights=None, num_classes=1)
    features = nn.Sequential(OrderedDict((name, net.get_submodule(name)) for name in _LAYERS))
    backbone = ResNetExtractor(features, (512, 512, 256, 256, 128 if depth == 18 else 256))
    if weights_backbone is not None:
        load_backbone(backbone, weights_backbone, f"resnet{depth}")
    freeze_stages(features, _STAGES, trainable_layers)
    if freeze_bn:
        freeze_batch_norm(features)
    priors = build_priors(backbone, image_size, preset, aspect_ratios)
    head = SSDHead(backbone.out_channels, priors.boxes_per_cell, num_classes, conv_predictor, xavier_init)
    return SSD(backbone, head, priors, preset, num_classes)


BUILDERS: dict[str, Callable[..., SSD]] = {f"ssd300_resnet{depth}": partial(ssd300_resnet, depth) for depth in DEPTHS}


def _extra_block(in_channels: int, mid: int, out: int, halve: bool) -> nn.Sequential:
    stride, padding = (2, 1) if halve else (1, 0)
    return nn.Sequential(
        nn.Conv2d(in_channels, mid, kernel_size=1, bias=False),
        nn.BatchNorm2d(mid),
        nn.ReLU(inplace=True),
        nn.Conv2d(mid, out, kernel_size=3, stride=stride, padding=padding, bias=False),
        nn.BatchNorm2d(out),
        nn.ReLU(inplace=True),
    )
