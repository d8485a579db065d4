"""Prediction heads: one small network per level and output, with rows in the order of the priors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from ssd.models.layers import Conv2dNormActivation, with_second_column

# in channels, out channels -> the network that predicts from one level
Predictor = Callable[[int, int], nn.Module]
Predictors = Predictor | Sequence[Predictor]  # one for all levels, or one for each
Outputs = Tensor | list[Tensor]  # [B, P, columns], or [B, A * columns, H, W] for each level
# BatchNorm of SSDlite in torchvision and in the TensorFlow models that it follows
LITE_NORM = partial(nn.BatchNorm2d, eps=0.001, momentum=0.03)


class ScoringHead(nn.Module):
    """Predicts `columns` outputs for each prior of every level."""

    def __init__(self, channels: Sequence[int], boxes_per_cell: Sequence[int], columns: int, predictor: Predictors):
        super().__init__()
        self.columns = columns
        predictors = [predictor] * len(channels) if callable(predictor) else predictor
        self.module_list = nn.ModuleList(
            predict(c, a * columns) for predict, c, a in zip(predictors, channels, boxes_per_cell, strict=True)
        )

    def forward(self, features: Sequence[Tensor], as_levels: bool = False) -> Outputs:
        """Maps features, one [B, C_k, H_k, W_k] for each level, to [B, P, columns] in cell-major order.

        `as_levels`: to [B, A * columns, H_k, W_k] for each level, channel a * columns + k, which costs no copies.
        """
        levels = [predict(feature) for feature, predict in zip(features, self.module_list, strict=True)]
        return levels if as_levels else rows_of(levels, self.columns)


class SSDHead(nn.Module):
    """The two heads of SSD, class logits and box deltas; names of the weights are those of torchvision."""

    def __init__(
        self,
        channels: Sequence[int],
        boxes_per_cell: Sequence[int],
        num_classes: int,
        predictor: Predictors,
        init: Callable[[nn.Module], None],
    ):
        super().__init__()
        self.classification_head = ScoringHead(channels, boxes_per_cell, num_classes, predictor)
        self.regression_head = ScoringHead(channels, boxes_per_cell, 4, predictor)
        init(self)

    def forward(self, features: Sequence[Tensor], as_levels: bool = False) -> tuple[Outputs, Outputs]:
        """Maps the features of all levels to (loc [B, P, 4], logits [B, P, C]), or to the two outputs of each level."""
        return self.regression_head(features, as_levels), self.classification_head(features, as_levels)


def rows_of(output: Outputs, columns: int) -> Tensor:
    """Returns an output as [B, P, columns]: rows of each level in cell-major order, concatenated."""
    if isinstance(output, Tensor):
        return output
    rows = []
    for level in output:
        batch, channels, height, width = level.shape
        # a view, not a copy, where the network runs in channels_last
        rows.append(level.permute(0, 2, 3, 1).reshape(batch, height * width * channels // columns, columns))
    return torch.cat(rows, dim=1)


def conv_predictor(in_channels: int, out_channels: int) -> nn.Module:
    """Returns SSD's predictor: one 3x3 convolution."""
    return nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1)


def lite_predictor(
    in_channels: int, out_channels: int, *, width: int | None = None, norm: Callable[..., nn.Module] = LITE_NORM
) -> nn.Module:
    """Returns SSDlite's predictor: 3x3 depthwise with norm and ReLU6, then 1x1; `width` adds a 1x1 layer before it."""
    mid = width or in_channels
    layers: list[nn.Module] = []
    if width is not None:
        layers.append(Conv2dNormActivation(in_channels, mid, kernel_size=1, norm_layer=norm, activation_layer=nn.ReLU6))
    layers.append(Conv2dNormActivation(mid, mid, kernel_size=3, groups=mid, norm_layer=norm, activation_layer=nn.ReLU6))
    layers.append(nn.Conv2d(mid, out_channels, kernel_size=1))
    return nn.Sequential(*layers)


def separable_predictor(in_channels: int, out_channels: int) -> nn.Module:
    """Returns the lite_predictor of qfgaohao and lufficc: depthwise convolution with bias, and PyTorch's BatchNorm."""
    return nn.Sequential(
        nn.Conv2d(in_channels, in_channels, kernel_size=3, padding=1, groups=in_channels),
        nn.BatchNorm2d(in_channels),
        nn.ReLU6(),
        nn.Conv2d(in_channels, out_channels, kernel_size=1),
    )


def depthwise_layers(in_channels: int, out_channels: int, *, stride: int = 1, padding: int = 1) -> nn.Sequential:
    """Returns qfgaohao's separable convolution without norm: 3x3 depthwise, ReLU, 1x1."""
    layers = (
        nn.Conv2d(in_channels, in_channels, 3, stride, padding, groups=in_channels),
        nn.ReLU(),
        nn.Conv2d(in_channels, out_channels, kernel_size=1),
    )
    return nn.Sequential(*layers) if stride == 1 else _Strided(*layers)


class _Strided(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        x = with_second_column(x, self[0])
        for layer in self:
            x = layer(x)
        return x


def point_predictor(in_channels: int, out_channels: int) -> nn.Module:
    """Returns one 1x1 convolution."""
    return nn.Conv2d(in_channels, out_channels, kernel_size=1)


def lite_extra(in_channels: int, out_channels: int, norm: Callable[..., nn.Module] = LITE_NORM) -> nn.Sequential:
    """Returns SSDlite's extra level, which halves the resolution: 1x1 to half the width, 3x3 depthwise, 1x1."""
    mid = out_channels // 2
    layer = partial(Conv2dNormActivation, norm_layer=norm, activation_layer=nn.ReLU6)
    return nn.Sequential(
        layer(in_channels, mid, kernel_size=1),
        layer(mid, mid, kernel_size=3, stride=2, groups=mid),
        layer(mid, out_channels, kernel_size=1),
    )


def lite_extras(channels: list[int], widths: Sequence[int]) -> nn.ModuleList:
    """Returns extra levels of these widths and appends their widths to those of the levels before, `channels`."""
    extras = nn.ModuleList()
    for width in widths:
        extras.append(lite_extra(channels[-1], width))
        channels.append(width)
    normal_init(extras)
    return extras


def xavier_init(module: nn.Module) -> None:
    """Initializes all convolutions with Xavier's uniform distribution and zero biases."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def normal_init(module: nn.Module, std: float = 0.03) -> None:
    """Initializes all convolutions from N(0, std) with zero biases, as SSDlite does."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.normal_(layer.weight, mean=0.0, std=std)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
