"""Convolutions with TensorFlow's SAME padding, which is not symmetric where stride and input size require an odd number."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class SameConv2d(nn.Conv2d):
    """Conv2d with a square kernel whose output has ceil(size / stride) cells along each side.

    With a stride of 2, a 3x3 kernel and an even size, the input is padded at the right and at the bottom alone, where
    PyTorch's padding of 1 would move all cells by one pixel.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Pads and convolves [B, C, H, W]."""
        x = same_padded(x, self.kernel_size[0], self.stride[0])
        return F.conv2d(x, self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


def same_padded(x: Tensor, kernel_size: int, stride: int) -> Tensor:
    """Returns [B, C, H, W] with the zeros around it that SAME padding adds."""
    pads = []
    for size in (x.shape[-1], x.shape[-2]):
        missing = max((-(-size // stride) - 1) * stride + kernel_size - size, 0)
        pads += [missing // 2, missing - missing // 2]
    return F.pad(x, pads)


def use_same_padding(module: nn.Module) -> None:
    """Makes every strided convolution inside a module pad as TensorFlow does, in place."""
    for layer in module.modules():
        if type(layer) is nn.Conv2d and max(layer.stride) > 1:
            layer.__class__ = SameConv2d
