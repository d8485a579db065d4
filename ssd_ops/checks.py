"""Input validation: one error that names the argument, what was expected and what was given.

`csrc/ops/check.h` does the same in C++, with the same messages; `tests/ops/test_errors.py` runs both.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from ssd_ops.sizes import may_hold, same_sizes

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def fail(message: str) -> None:
    """Raises the error for invalid input, a RuntimeError as torch's own ops raise."""
    raise RuntimeError(message)


def tensor(name: str, value: Any) -> None:
    """Raises unless `value` is a dense tensor."""
    if not isinstance(value, Tensor):
        kind = f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")
        raise TypeError(f"{name} must be a torch.Tensor, got {kind} (torch.as_tensor makes one)")
    if value.layout != torch.strided:
        raise TypeError(f"{name} must be a dense tensor, got layout {value.layout} (to_dense() makes one)")
    if value.is_nested:
        raise TypeError(f"{name} must be a dense tensor, got a nested one (to_padded_tensor() makes one)")


def integer(name: str, value: Any) -> int:
    """Returns an integer (of Python, NumPy or a tensor); raises for anything else."""
    if isinstance(value, (int, torch.SymInt)):
        return value  # type: ignore[return-value]
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, got {value!r}") from None


def real(name: str, value: Any) -> float:
    """Returns a real number (of Python, NumPy or a tensor); raises for anything else."""
    if isinstance(value, (int, float, torch.SymInt, torch.SymFloat)):
        return value  # type: ignore[return-value]
    if isinstance(value, str) or not hasattr(value, "__float__"):
        raise TypeError(f"{name} must be a number, got {value!r}")
    if isinstance(value, Tensor) and has_derivative(value):
        fail(f"{name} must be a number, got a tensor that requires a gradient, which it has not: give {name}.detach()")
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"{name} must be a number, got {value!r}") from None


def boolean(name: str, value: Any) -> bool:
    """Returns a bool (of Python, NumPy or a tensor without dimensions); raises for anything else."""
    if isinstance(value, (bool, torch.SymBool)):
        return value  # type: ignore[return-value]
    if str(getattr(value, "dtype", "")) in ("bool", "torch.bool") and value.ndim == 0:
        return bool(value)
    raise TypeError(f"{name} must be True or False, got {value!r}")


def less_than(name: str, value: int, limit: int) -> int:
    """Returns `value` if it is below `limit`, else raises."""
    if not may_hold(value < limit):
        fail(f"{name} must be less than {limit}, got {value}")
    return value


def reals(name: str, values: Any, expected: str) -> list[float]:
    """Returns a sequence of numbers as a list; `expected` describes it in the error."""
    if isinstance(values, str) or not hasattr(values, "__iter__"):
        raise TypeError(f"{name} must be {expected}, got {values!r}")
    return [value if type(value) is float else float(real(f"{name}[{i}]", value)) for i, value in enumerate(values)]


def dtype_name(kind: torch.dtype) -> str:
    """Returns `float32` for `torch.float32`."""
    return str(kind).removeprefix("torch.")


def shape(name: str, tensor: Tensor, expected: str, matches: bool) -> None:
    """Raises unless `matches`; `expected` is the shape in the error, such as `[N, 4]`."""
    if not matches:
        fail(f"{name} must have shape {expected}, got {list(tensor.shape)}")


def boxes(name: str, tensor: Tensor, expected: str, dim: int) -> None:
    """Raises unless a tensor has `dim` dimensions, the last of size 4, and is floating."""
    shape(name, tensor, expected, tensor.dim() == dim and tensor.shape[-1] == 4)
    floating(name, tensor)


def floating(name: str, tensor: Tensor) -> None:
    """Raises unless the dtype is one of the four that kernels read."""
    if tensor.dtype not in FLOATS:
        fail(f"{name} must be float16, bfloat16, float32 or float64, got {dtype_name(tensor.dtype)}")


def dtype(name: str, tensor: Tensor, expected: torch.dtype) -> None:
    """Raises unless the dtype is the expected one."""
    if tensor.dtype != expected:
        fail(f"{name} must be {dtype_name(expected)}, got {dtype_name(tensor.dtype)}")


def int64(name: str, tensor: Tensor) -> None:
    """Raises unless the dtype is int64."""
    dtype(name, tensor, torch.int64)


def same_device(name: str, tensor: Tensor, other_name: str, other: Tensor) -> None:
    """Raises unless two tensors are on one device."""
    if tensor.device != other.device:
        fail(f"{name} must be on the device of {other_name}, {other.device}, got {tensor.device}")


def gradient(tensor: Tensor, other_name: str, other: Tensor, expected: Sequence[int]) -> None:
    """Raises unless an incoming gradient is floating and has the shape and device of the result."""
    shape("grad", tensor, str(list(expected)), same_sizes(tensor.shape, expected))
    floating("grad", tensor)
    same_device("grad", tensor, other_name, other)


def has_derivative(tensor: Tensor) -> bool:
    """Returns whether a gradient of `tensor` is wanted, backward or forward."""
    if forward_ad._current_level >= 0 and forward_ad.unpack_dual(tensor).tangent is not None:
        return True
    return tensor.requires_grad and torch.is_grad_enabled()


def writable(name: str, out: Tensor, **inputs: Tensor) -> None:
    """Raises if autograd cannot track `out`: it or an input requires a gradient, or it is an inference tensor."""
    for key, tensor in ((name, out), *inputs.items()):
        if has_derivative(tensor):
            fail(f"{name} cannot be written to where {key} requires a gradient, which does not flow through {name}")
    if out.is_neg():
        fail(f"{name} must not be a negated view: give {name}.resolve_neg()")
    if out.is_inference() and not torch.is_inference_mode_enabled():
        fail(f"{name} must not be an inference tensor outside of torch.inference_mode: give {name}.clone()")


def no_shared_memory(name: str, out: Tensor, **inputs: Tensor) -> None:
    """Raises if `out` shares memory with an input, which would be overwritten while it is read."""
    if out.device.type == "meta":
        return
    begin, end = _extent(out)
    for key, tensor in inputs.items():
        low, high = _extent(tensor)
        if low < end and begin < high:
            fail(f"{name} must not share memory with {key}")


def _extent(tensor: Tensor) -> tuple[int, int]:
    """Returns the first address of a tensor's memory and the one after its last."""
    if not tensor.numel():
        return 0, 0
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor.data_ptr(), tensor.data_ptr() + (last + 1) * tensor.element_size()


def number(name: str, value: float) -> None:
    """Raises for NaN."""
    if math.isnan(real(name, value)):
        fail(f"{name} must be a number, got nan")


def positive(name: str, value: float) -> None:
    """Raises unless a number is above 0."""
    if not real(name, value) > 0:
        fail(f"{name} must be a number above 0, got {value:g}")


def not_negative(name: str, value: float) -> None:
    """Raises unless a number is 0 or more."""
    if not real(name, value) >= 0:
        fail(f"{name} must be 0 or more, got {value:g}")


def at_least_one(name: str, value: int) -> None:
    """Raises unless an integer is at least 1."""
    if not may_hold(integer(name, value) >= 1):
        fail(f"{name} must be at least 1, got {value}")


def one_of(name: str, value: str, choices: Sequence[str]) -> None:
    """Raises unless a string is among `choices`."""
    if value not in choices:
        fail(f"{name} must be one of {', '.join(choices)}, got {value}")


def four_variances(variances: Sequence[float]) -> list[float]:
    """Returns 4 variances; `(center, size)` means `(center, center, size, size)`."""
    values = reals("variances", variances, "2 or 4 numbers above 0")
    return [values[0], values[0], values[1], values[1]] if len(values) == 2 else values


def variances(value: Sequence[float]) -> None:
    """Raises unless there are four variances above 0."""
    if len(value) != 4 or not all(v > 0 for v in value):
        fail(f"variances must be 2 or 4 numbers above 0, got [{', '.join(f'{v:g}' for v in value)}]")


def as_many(name: str, tensor: Tensor, count: int) -> None:
    """Raises unless a tensor has shape `[count]`; a traced program checks an unknown length when it runs."""
    shape(name, tensor, f"[{count}]", same_sizes(tensor.shape, (count,)))


def has_values(tensor: Tensor) -> bool:
    """Returns whether values can be validated: not on a GPU, which would synchronize, nor while a program is traced."""
    return tensor.device.type == "cpu" and type(tensor) in (Tensor, torch.nn.Parameter)


def offsets(tensor: Tensor, total: int) -> None:
    """Raises unless offsets ascend from 0 to the number of boxes; not validated on a GPU, which would synchronize."""
    shape("offsets", tensor, "[B + 1]", tensor.dim() == 1 and tensor.shape[0] >= 1)
    int64("offsets", tensor)
    if not has_values(tensor):
        return
    values = tensor.tolist()
    for i, (low, high) in enumerate(zip(values, values[1:], strict=False)):
        if high < low:
            fail(f"offsets must not decrease, got offsets[{i}] = {low} and offsets[{i + 1}] = {high}")
    if values[0] != 0 or values[-1] != total:
        fail(f"offsets must run from 0 to the number of boxes, {total}, got {values[0]} to {values[-1]}")


def label_range(name: str, tensor: Tensor, low: int, high: int | None) -> None:
    """Raises for labels outside `low .. high - 1`; validated on the CPU only, as offsets are."""
    if not has_values(tensor) or tensor.numel() == 0:
        return
    wrong = tensor < low if high is None else (tensor < low) | (tensor >= high)
    if bool(wrong.any()):
        index = int(wrong.flatten().nonzero()[0])
        expected = f"{low} or more" if high is None else f"between {low} and {high - 1}"
        fail(f"{name} must be {expected}, got {int(tensor.flatten()[index])} at index {index}")
