"""Heads for inference in which one convolution per level predicts both outputs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ssd.models.detector import SSD
from ssd.models.heads import Outputs, SSDHead, rows_of


def fuse_heads(model: SSD) -> None:
    """Replaces the heads of a detector by a `FusedHead`, in place, if all of their predictors are single convolutions.

    The features of a level are then read once, but both outputs are copied from the common result. The weights have other
    names afterwards, so this is for a copy that is not saved. Results differ by rounding.
    """
    if isinstance(model.head, SSDHead) and all(_is_fusible(*pair) for pair in _pairs(model.head)):
        model.head = FusedHead(model.head)


class FusedHead(SSDHead):
    """Predicts what another `SSDHead` does.

    Args:
        head: Its weights are copied.
    """

    def __init__(self, head: SSDHead) -> None:
        nn.Module.__init__(self)
        self.columns = head.regression_head.columns, head.classification_head.columns
        self.channels = [(loc.weight.shape[0], cls.weight.shape[0]) for loc, cls in _pairs(head)]  # of both outputs
        self.layers = nn.ModuleList(_fused(loc, cls) for loc, cls in _pairs(head))

    def forward(self, features: Sequence[Tensor], as_levels: bool = False) -> tuple[Outputs, Outputs]:
        """Maps the features of all levels to (loc [B, P, 4], logits [B, P, C]), or to the two outputs of each level."""
        both = [layer(feature) for layer, feature in zip(self.layers, features, strict=True)]
        levels = [level.split(channels, dim=1) for level, channels in zip(both, self.channels, strict=True)]
        loc, logits = ([*outputs] for outputs in zip(*levels, strict=True))
        return (loc, logits) if as_levels else (rows_of(loc, self.columns[0]), rows_of(logits, self.columns[1]))


def _pairs(head: SSDHead) -> list[tuple[nn.Conv2d, nn.Conv2d]]:
    return list(zip(head.regression_head.module_list, head.classification_head.module_list, strict=True))  # type: ignore[arg-type]


def _is_fusible(loc: nn.Module, cls: nn.Module) -> bool:
    return type(loc) is type(cls) is nn.Conv2d and _geometry(loc) == _geometry(cls) and loc.groups == 1


def _geometry(conv: nn.Conv2d) -> tuple[object, ...]:
    padding = conv.padding, conv.padding_mode
    return conv.in_channels, conv.kernel_size, conv.stride, conv.dilation, conv.groups, conv.bias is None, *padding


def _fused(loc: nn.Conv2d, cls: nn.Conv2d) -> nn.Conv2d:
    made = nn.Conv2d(
        loc.in_channels,
        loc.out_channels + cls.out_channels,
        loc.kernel_size,  # type: ignore[arg-type]
        loc.stride,  # type: ignore[arg-type]
        loc.padding,  # type: ignore[arg-type]
        loc.dilation,  # type: ignore[arg-type]
        padding_mode=loc.padding_mode,
        device="meta",
    )
    made.weight = nn.Parameter(torch.cat([loc.weight, cls.weight]), requires_grad=False)
    biases = [conv.bias for conv in (loc, cls) if conv.bias is not None]
    made.bias = nn.Parameter(torch.cat(biases), requires_grad=False) if biases else None
    return made.eval()
