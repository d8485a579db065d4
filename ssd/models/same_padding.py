"""Convolutions with TensorFlow's SAME padding, which is not symmetric where stride and input size ask for an odd number."""

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
        pads = []
        for size in (x.shape[-1], x.shape[-2]):
            missing = max((-(-size // self.stride[0]) - 1) * self.stride[0] + self.kernel_size[0] - size, 0)
            pads += [missing // 2, missing - missing // 2]
        return F.conv2d(F.pad(x, pads), self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


def use_same_padding(module: nn.Module) -> None:
    """Makes every strided convolution inside a module pad as TensorFlow does, in place."""
    for layer in module.modules():
        if type(layer) is nn.Conv2d and max(layer.stride) > 1:
            layer.__class__ = SameConv2d
