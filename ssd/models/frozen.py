"""Freezes parts of a backbone: its first stages, and BatchNorm with the statistics that it was loaded with.

Small batches would degrade these statistics. A frozen BatchNorm is folded into its convolution.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class FrozenBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm2d that always is in evaluation mode and is not trained; its state dict is that of BatchNorm2d.

    `folded` means that the convolution before it already applies it.
    """

    folded = False

    def train(self, mode: bool = True) -> FrozenBatchNorm2d:
        """Keeps evaluation mode, whatever `mode` is."""
        return super().train(False)

    def forward(self, x: Tensor) -> Tensor:
        """Normalizes x [B, C, H, W], unless the convolution already did."""
        return x if self.folded else super().forward(x)


class FoldedConv2d(nn.Conv2d):
    """Conv2d that applies the frozen BatchNorm after it by scaling its own weights.

    Scaling the weights costs almost nothing, while normalizing the features of every layer, forward and backward, took a
    sixth of a training step on a CPU. Gradients flow to the unscaled weights, which are in the state dict.
    """

    norm: list[FrozenBatchNorm2d]  # in a list, so that it is not a child and has one name in the state dict

    def forward(self, x: Tensor) -> Tensor:
        """Convolves and normalizes [B, C, H, W]."""
        norm = self.norm[0]
        assert norm.running_mean is not None and norm.running_var is not None
        scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
        shift = norm.bias - norm.running_mean * scale
        weight = self.weight * scale[:, None, None, None]
        return F.conv2d(x, weight.to(x.dtype), shift.to(x.dtype), self.stride, self.padding, self.dilation, self.groups)


def freeze_batch_norm(module: nn.Module) -> None:
    """Freezes every BatchNorm2d inside a module, in place, and folds those that follow a convolution in a Sequential."""
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.__class__ = FrozenBatchNorm2d
            layer.eval()
            for parameter in layer.parameters():
                parameter.requires_grad_(False)
    for parent in module.modules():
        if isinstance(parent, nn.Sequential):
            for conv, norm in zip(parent, [*parent][1:], strict=False):
                plain = type(conv) is nn.Conv2d and conv.bias is None and conv.padding_mode == "zeros"
                if plain and isinstance(norm, FrozenBatchNorm2d):
                    conv.__class__ = FoldedConv2d
                    conv.norm = [norm]  # type: ignore[assignment]  # mypy takes it for a child module
                    norm.folded = True


def freeze_stages(layers: nn.Sequential, starts: Sequence[int], trainable: int | None) -> None:
    """Freezes all stages but the last `trainable`.

    Args:
        layers: The layers of the backbone.
        starts: Index in `layers` of the first layer of each stage; the first is 0.
        trainable: 0..len(starts); None trains all stages.
    """
    if trainable is None:
        return
    if not 0 <= trainable <= len(starts):
        raise ValueError(f"trainable_layers must be in 0..{len(starts)}, got {trainable}")
    for parameter in layers[: [*starts, len(layers)][len(starts) - trainable]].parameters():
        parameter.requires_grad_(False)
