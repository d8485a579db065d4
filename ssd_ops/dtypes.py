"""Which dtype an op reads an argument as, and which it computes in."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ssd_ops import checks

NARROW = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.uint16)  # integers that become float32


def floating(name: str, value: Any) -> Tensor:
    """Returns an argument as a floating tensor.

    bool and integers of 8 and 16 bits become float32, wider ones float64, quantized tensors are dequantized. Any other
    tensor stays as it is: the ops raise for complex numbers, float8 and the like.
    """
    if type(value) is Tensor and value.dtype in checks.FLOATS and value.layout == torch.strided and not value.is_nested:
        return value  # the usual case, in half the time
    checks.tensor(name, value)
    tensor: Tensor = value.dequantize() if value.is_quantized else value
    if tensor.is_floating_point() or tensor.is_complex():
        return tensor
    return tensor.to(torch.float32 if tensor.dtype in NARROW else torch.float64)


def class_ids(name: str, value: Any) -> Tensor:
    """Returns class ids of any dtype as int64, equal where those are: integers, or the bits of float64."""
    checks.tensor(name, value)
    tensor: Tensor = value
    if tensor.is_complex() or not tensor.is_floating_point():
        return tensor if tensor.is_complex() else tensor.to(torch.int64)
    if torch.onnx.is_in_onnx_export():
        checks.fail(f"{name} must be integers in a program that is exported to ONNX: give {name}.to(torch.int64)")
    return (tensor.double() + 0.0).view(torch.int64)  # -0 is 0


def compute_dtype(*tensors: Tensor) -> torch.dtype:
    """Returns float64 where any tensor is float64, else float32: half precision is computed in float32."""
    return torch.float64 if any(t.dtype == torch.float64 for t in tensors) else torch.float32
