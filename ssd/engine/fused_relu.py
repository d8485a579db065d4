"""Runs convolution, bias and ReLU of a network in training as one cuDNN kernel, where torch runs three."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class FusedReLU:
    """The dense convolutions of a model that a ReLU follows, for training on a GPU in half precision.

    The sum of convolution and bias is not rounded before the ReLU; apart from that the bits are those of torch.

    Args:
        model: Model to train, in channels_last.
    """

    def __init__(self, model: nn.Module) -> None:
        self._pairs: list[tuple[nn.Conv2d, dict[str, Any], str]] = []  # convolution, and where its ReLU is
        for parent in model.modules():
            if not isinstance(parent, nn.Sequential):
                continue
            layers = list(parent._modules.items())
            for (_, conv), (name, relu) in zip(layers, layers[1:], strict=False):
                if type(conv) is nn.Conv2d and type(relu) is nn.ReLU and _is_supported(conv):
                    self._pairs.append((conv, parent._modules, name))

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Runs a forward pass."""
        relus = [modules[name] for _, modules, name in self._pairs]
        for conv, modules, name in self._pairs:
            conv.__class__ = _ConvReLU
            modules[name] = _IDENTITY
        try:
            yield
        finally:
            for (conv, modules, name), relu in zip(self._pairs, relus, strict=True):
                conv.__class__ = nn.Conv2d
                modules[name] = relu


_IDENTITY = nn.Identity()


def _is_supported(conv: nn.Conv2d) -> bool:
    return conv.groups == 1 and conv.bias is not None and conv.padding_mode == "zeros" and conv.padding != "same"


class _ConvReLU(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        dtype = torch.get_autocast_dtype(x.device.type)
        assert self.bias is not None
        with torch.autocast(x.device.type, enabled=False):
            weights = self.weight.to(dtype), self.bias.to(dtype)
            result: Tensor = _Function.apply(x.to(dtype), *weights, self.stride, self.padding, self.dilation)
            return result


class _Function(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, stride: Any, padding: Any, dilation: Any) -> Tensor:
        result = torch.cudnn_convolution_relu(x, weight, bias, stride, padding, dilation, 1)
        ctx.save_for_backward(x, weight, result)
        ctx.options = stride, padding, dilation
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        x, weight, result = ctx.saved_tensors
        stride, padding, dilation = ctx.options
        grad = torch.ops.aten.threshold_backward(grad, result, 0)
        needed = [*ctx.needs_input_grad[:3]]
        grads = torch.ops.aten.convolution_backward(
            grad, x, weight, [weight.shape[0]], stride, padding, dilation, False, [0, 0], 1, needed
        )
        return *grads, None, None, None
