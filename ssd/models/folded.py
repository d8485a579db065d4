"""A detector for inference only, with BatchNorm folded into the convolutions before it."""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from ssd.models.detector import SSD
from ssd.models.same_padding import SameConv2d


def folded(model: SSD, dtype: torch.dtype = torch.float32) -> SSD:
    """Returns a copy of a detector without the BatchNorms that follow a convolution, in channels_last.

    The results differ from the detector's by rounding. Weights are folded in float32, then cast to `dtype`.
    """
    own = copy.deepcopy(model).eval().requires_grad_(False)
    with torch.no_grad():
        for parent in list(own.modules()):
            for conv, norm in _pairs(parent):
                parent._modules[conv] = _fold(parent.get_submodule(conv), parent.get_submodule(norm))
                parent._modules[norm] = nn.Identity()
    if dtype != torch.float32:
        _fuse_relu(own)
    return own.to(dtype).to(memory_format=torch.channels_last)


class ConvReLU(nn.Conv2d):
    """Conv2d followed by ReLU: one cuDNN kernel on a GPU, where torch runs three (convolution, bias, ReLU)."""

    fused = True

    def forward(self, x: Tensor) -> Tensor:
        """Returns the ReLU of the convolution of x [B, C, H, W]."""
        if x.is_cuda and self.fused:
            try:
                padding: Any = self.padding
                return torch.cudnn_convolution_relu(
                    x, self.weight, self.bias, self.stride, padding, self.dilation, self.groups
                )
            except (
                RuntimeError
            ):  # cuDNN has no kernel for this layer; the first call shows it, before any graph capture
                self.fused = False
        return F.relu(super().forward(x))


def _fuse_relu(module: nn.Module) -> None:
    """Fuses each dense convolution in a Sequential with the ReLU after it, in place."""
    for parent in module.modules():
        if not isinstance(parent, nn.Sequential):
            continue
        layers = [(name, layer) for name, layer in parent._modules.items() if not isinstance(layer, nn.Identity)]
        for (_, conv), (name, relu) in zip(layers, layers[1:], strict=False):
            if type(conv) is nn.Conv2d and conv.groups == 1 and conv.padding_mode == "zeros" and type(relu) is nn.ReLU:
                conv.__class__ = ConvReLU
                parent._modules[name] = nn.Identity()


def _pairs(parent: nn.Module) -> Iterator[tuple[str, str]]:
    """Yields the names of each convolution and the BatchNorm directly after it."""
    if isinstance(parent, nn.Sequential):
        names = list(parent._modules)
        pairs = list(zip(names, names[1:], strict=False))
    elif _is_resnet_block(parent):
        pairs = [(f"conv{i}", f"bn{i}") for i in (1, 2, 3) if hasattr(parent, f"conv{i}")]
    else:
        return
    for conv, norm in pairs:
        layer, other = parent._modules[conv], parent._modules[norm]
        if isinstance(layer, nn.Conv2d) and isinstance(other, nn.BatchNorm2d) and other.running_mean is not None:
            yield conv, norm


def _is_resnet_block(module: nn.Module) -> bool:
    resnet = sys.modules.get("torchvision.models.resnet")  # if it is not imported, there are none of its blocks
    return resnet is not None and isinstance(module, (resnet.BasicBlock, resnet.Bottleneck))


def _fold(conv: nn.Module, norm: nn.Module) -> nn.Conv2d:
    assert isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)
    assert norm.running_mean is not None and norm.running_var is not None
    made = (SameConv2d if isinstance(conv, SameConv2d) else nn.Conv2d)(
        conv.in_channels,
        conv.out_channels,
        conv.kernel_size,  # type: ignore[arg-type]
        conv.stride,  # type: ignore[arg-type]
        conv.padding,  # type: ignore[arg-type]
        conv.dilation,  # type: ignore[arg-type]
        conv.groups,
        padding_mode=conv.padding_mode,
        device="meta",
    )
    made.weight, made.bias = fuse_conv_bn_weights(
        conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
    )
    return made.eval().requires_grad_(False)
