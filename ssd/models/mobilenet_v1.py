"""SSD on MobileNetV1: ssd300_mobilenet_v1, in the variants of qfgaohao, dusty-nv and TensorFlow Object Detection."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, get_args

from torch import Tensor, nn

from ssd.models.detector import SSD, build_priors
from ssd.models.extractor import Extractor
from ssd.models.frozen import freeze_batch_norm, freeze_stages
from ssd.models.heads import (
    LITE_NORM,
    Predictors,
    SSDHead,
    conv_predictor,
    depthwise_layers,
    normal_init,
    point_predictor,
    xavier_init,
)
from ssd.models.same_padding import use_same_padding
from ssd.presets import Preset

Layout = Literal["qfgaohao", "qfgaohao_lite", "tensorflow"]
TENSORFLOW_RATIOS = ((2.0,), *[(2.0, 3.0)] * 5)  # the first level has three boxes: see PriorConfig.order

# Output channels and stride of the depthwise separable blocks.
_BLOCKS = (
    (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1),
)  # fmt: skip
_FIRST_LEVEL = 11  # block whose output, at stride 16, is the first level


class MobileNetV1Extractor(Extractor):
    """MobileNetV1's features at strides 16 and 32, and four extra levels after them.

    Args:
        layout: See `ssd300_mobilenet_v1`.
    """

    def __init__(self, layout: Layout):
        super().__init__()
        norm, activation = (LITE_NORM, nn.ReLU6) if layout == "tensorflow" else (nn.BatchNorm2d, nn.ReLU)
        self.blocks = nn.Sequential(nn.Sequential(*_conv_norm(3, 32, 3, norm, activation, stride=2)))
        width = 32
        for out, stride in _BLOCKS:
            depthwise = _conv_norm(width, width, 3, norm, activation, stride=stride, groups=width)
            self.blocks.append(nn.Sequential(*depthwise, *_conv_norm(width, out, 1, norm, activation)))
            width = out
        last = 128 if layout == "tensorflow" else 256
        channels = [512, 1024]
        self.extras = nn.ModuleList()
        for out, mid in ((512, 256), (256, 128), (256, 128), (last, last // 2)):
            if layout == "tensorflow":
                self.extras.append(norm_extra(channels[-1], mid, out))
            else:
                self.extras.append(plain_extra(channels[-1], mid, out, layout))
            channels.append(out)
        if layout == "tensorflow":
            use_same_padding(self)
        (normal_init if layout == "tensorflow" else xavier_init)(self.extras)
        self.out_channels = tuple(channels)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Maps [B, 3, S, S] to the features of all levels, fine to coarse."""
        levels = [self.blocks[: _FIRST_LEVEL + 1](images)]
        levels.append(self.blocks[_FIRST_LEVEL + 1 :](levels[0]))
        for block in self.extras:
            levels.append(block(levels[-1]))
        return levels


def ssd300_mobilenet_v1(
    num_classes: int,
    image_size: int,
    preset: Preset,
    *,
    aspect_ratios: Sequence[Sequence[float]] | Sequence[float] | None = None,
    trainable_layers: int | None = None,
    freeze_bn: bool = False,
    layout: Layout = "qfgaohao",
) -> SSD:
    """Builds SSD on MobileNetV1: six levels from stride 16, 3000 priors at an input of 300 (1917 in TensorFlow's).

    Args:
        num_classes: Number of classes with the background.
        image_size: Side of the input.
        preset: Rules around the network; "qfgaohao", "dusty_nv" or "tensorflow" for weights of these systems.
        aspect_ratios: Besides 1; one list for all levels, or one for each; None: 2 and 3, and for the layout
            "tensorflow" 2 alone on the first level.
        trainable_layers: Number of trainable backbone stages, 0..5, counted from the last; None is all.
        freeze_bn: Freezes the backbone's BatchNorm at its loaded statistics.
        layout: Variant of extra levels and heads: "qfgaohao" (mb1-ssd, also dusty-nv's: plain convolutions),
            "qfgaohao_lite" (mb1-ssd-lite: depthwise separable) or "tensorflow" (ssd_mobilenet_v1_coco: BatchNorm, ReLU6,
            TensorFlow's padding, and 1x1 heads).
    """
    if layout not in get_args(Layout):
        raise ValueError(f"layout must be one of {', '.join(get_args(Layout))}, got {layout!r}")
    backbone = MobileNetV1Extractor(layout)
    freeze_stages(
        backbone.blocks, [0, *(i for i, (_, stride) in enumerate(_BLOCKS, 1) if stride == 2)], trainable_layers
    )
    if freeze_bn:
        freeze_batch_norm(backbone.blocks)
    if aspect_ratios is None:
        aspect_ratios = TENSORFLOW_RATIOS if layout == "tensorflow" else (2.0, 3.0)
    priors = build_priors(backbone, image_size, preset, aspect_ratios)
    predictors: dict[Layout, Predictors] = {
        "qfgaohao": conv_predictor,
        "qfgaohao_lite": [*[depthwise_layers] * 5, point_predictor],
        "tensorflow": point_predictor,
    }
    init = normal_init if layout == "tensorflow" else xavier_init
    head = SSDHead(backbone.out_channels, priors.boxes_per_cell, num_classes, predictors[layout], init)
    return SSD(backbone, head, priors, preset, num_classes)


def norm_extra(in_channels: int, mid: int, out: int) -> nn.Sequential:
    """Returns TensorFlow's extra level, which halves the resolution: 1x1 to `mid`, then 3x3, each with norm and ReLU6."""
    first = _conv_norm(in_channels, mid, 1, LITE_NORM, nn.ReLU6)
    return nn.Sequential(*first, *_conv_norm(mid, out, 3, LITE_NORM, nn.ReLU6, stride=2))


def plain_extra(in_channels: int, mid: int, out: int, layout: Layout, padding: int = 1) -> nn.Sequential:
    """Returns qfgaohao's extra level, which halves the resolution, without norm; the lite one has no last ReLU."""
    first: list[nn.Module] = [nn.Conv2d(in_channels, mid, kernel_size=1), nn.ReLU()]
    if layout == "qfgaohao_lite":
        return nn.Sequential(*first, depthwise_layers(mid, out, stride=2, padding=padding))
    return nn.Sequential(*first, nn.Conv2d(mid, out, kernel_size=3, stride=2, padding=padding), nn.ReLU())


def _conv_norm(
    in_channels: int,
    out_channels: int,
    kernel: int,
    norm: Callable[[int], nn.Module],
    activation: Callable[..., nn.Module],
    *,
    stride: int = 1,
    groups: int = 1,
) -> tuple[nn.Module, nn.Module, nn.Module]:
    conv = nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False)
    return conv, norm(out_channels), activation(inplace=True)
