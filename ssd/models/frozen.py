"""BatchNorm that keeps the statistics it was loaded with: small batches would spoil them."""

from __future__ import annotations

from torch import nn


class FrozenBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm2d that stays in evaluation and does not learn; its state dict is that of BatchNorm2d.

    Unlike torchvision's class of this name it uses PyTorch's fused kernel, and checkpoints fit with it and without it.
    """

    def train(self, mode: bool = True) -> FrozenBatchNorm2d:
        """Stays in evaluation whatever the mode."""
        return super().train(False)


def freeze_batch_norm(module: nn.Module) -> None:
    """Freezes every BatchNorm2d inside a module, in place."""
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.__class__ = FrozenBatchNorm2d
            layer.eval()
            for parameter in layer.parameters():
                parameter.requires_grad_(False)
