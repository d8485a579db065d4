"""Convolutions for inference on a CPU: weights in the layout of oneDNN, and the activation in the same call.

torch reorders the weights of a convolution in every call, and reads and writes its whole result again for the activation.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ssd.models.folded import ConvReLU
from ssd.models.layers import SqueezeExcitation
from ssd.models.same_padding import SameConv2d, same_padded

_Activation = tuple[str, list[float]]  # oneDNN's name, and its parameters
_ACTIVATIONS: dict[type[nn.Module], _Activation] = {
    nn.ReLU: ("relu", []),
    nn.ReLU6: ("hardtanh", [0.0, 6.0]),
    nn.Hardswish: ("hardswish", []),
    nn.Hardsigmoid: ("hardsigmoid", []),
    nn.SiLU: ("swish", []),
    nn.Sigmoid: ("sigmoid", []),
}
_NO_ACTIVATION: _Activation = ("none", [])
_MAX_LAYOUTS = 4  # layouts kept of the weights of one layer


def can_pack(dtype: torch.dtype) -> bool:
    """Returns whether this torch and CPU have packed convolutions of a dtype."""
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, "_convolution_pointwise"):
        return False
    if torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"):
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()))


def pack_convolutions(net: nn.Module) -> None:
    """Replaces the convolutions of a network in evaluation mode, each with the activation after it, in place.

    Results differ by rounding. The network has no derivatives afterwards.
    """
    for parent in list(net.modules()):
        layers = parent._modules
        for conv, activation in _fusible(parent):
            layers[conv] = PackedConv2d(layers[conv], layers[activation])
            layers[activation] = nn.Identity()
        for name, layer in layers.items():
            if _is_packable(layer):
                layers[name] = PackedConv2d(layer, None)


class PackedConv2d(nn.Module):
    """A convolution and the activation after it.

    Args:
        conv: Convolution with zero padding.
        activation: A layer of a type in _ACTIVATIONS, or None.
    """

    def __init__(self, conv: Any, activation: nn.Module | None) -> None:
        super().__init__()
        self.weight: nn.Parameter = conv.weight
        self.bias: nn.Parameter | None = conv.bias
        self.same_padding = (conv.kernel_size[0], conv.stride[0]) if isinstance(conv, SameConv2d) else None
        padding = (0, 0) if isinstance(conv, SameConv2d) else conv.padding
        self.geometry = [list(padding), list(conv.stride), list(conv.dilation), conv.groups]
        self.activation = _NO_ACTIVATION if activation is None else _ACTIVATIONS[type(activation)]
        if isinstance(conv, ConvReLU):
            self.activation = _ACTIVATIONS[nn.ReLU]
        self._packed: dict[tuple[int, ...], Tensor] = {}

    def forward(self, x: Tensor) -> Tensor:
        """Returns the activated convolution of x [B, C, H, W]."""
        if self.same_padding is not None:
            x = same_padded(x, *self.same_padding)
        result: Tensor = torch.ops.mkldnn._convolution_pointwise(
            x, self._packed_for(x) if len(x) else self.weight, self.bias, *self.geometry, *self.activation, ""
        )
        return result

    def _packed_for(self, x: Tensor) -> Tensor:
        """Returns the weights in the layout for this input; in any other, oneDNN would reorder them in every call."""
        key = (*x.shape, torch.get_num_threads())
        weight = self._packed.get(key)
        if weight is None:
            if len(self._packed) == _MAX_LAYOUTS:
                del self._packed[next(iter(self._packed))]
            weight = torch.ops.mkldnn._reorder_convolution_weight(self.weight, *self.geometry, list(x.shape))
            self._packed[key] = weight
        return weight


def _fusible(parent: nn.Module) -> list[tuple[str, str]]:
    """Returns the names of the convolutions directly inside a module and of the activation after each."""
    if isinstance(parent, SqueezeExcitation):
        pairs = [("fc1", "activation"), ("fc2", "scale_activation")]
    elif isinstance(parent, nn.Sequential):
        names = [name for name, layer in parent._modules.items() if not isinstance(layer, nn.Identity)]
        pairs = list(zip(names, names[1:], strict=False))
    else:
        return []
    layers = parent._modules
    return [(a, b) for a, b in pairs if _is_packable(layers[a]) and type(layers[b]) in _ACTIVATIONS]


def _is_packable(layer: nn.Module | None) -> bool:
    return (
        isinstance(layer, nn.Conv2d)
        and type(layer) in (nn.Conv2d, SameConv2d, ConvReLU)
        and layer.padding_mode == "zeros"
        and not isinstance(layer.padding, str)
    )
