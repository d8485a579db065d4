"""Which numbers the ops compute with, and how they compare a score or an overlap with a threshold."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def floating(tensor: Tensor) -> Tensor:
    """Return integers as float32, and any other tensor as it is: the ops refuse complex numbers by name."""
    return tensor if tensor.is_floating_point() or tensor.is_complex() else tensor.float()


def compute_dtype(*tensors: Tensor) -> torch.dtype:
    """Return float64 where any tensor is float64, else float32: half precision is read as it is and computed in float32."""
    return torch.float64 if any(t.dtype == torch.float64 for t in tensors) else torch.float32


def above(values: Tensor, threshold: float) -> Tensor:
    """Return `values > threshold`, compared in float64 so that a threshold is never rounded. NaN is not above."""
    return values.double() > threshold


def at_or_above(values: Tensor, threshold: float) -> Tensor:
    """Return `values >= threshold`, compared in float64. NaN is not above."""
    return values.double() >= threshold


def passes(values: Tensor, threshold: float, at: str) -> Tensor:
    """Return `values > threshold` or `values >= threshold`, as `at` says, compared in float64. NaN does not pass."""
    return above(values, threshold) if at == ">" else at_or_above(values, threshold)


def four_variances(variances: Sequence[float]) -> list[float]:
    """Return 4 variances: `(center, size)` stands for `(center, center, size, size)`."""
    values = [float(v) for v in variances]
    return [values[0], values[0], values[1], values[1]] if len(values) == 2 else values
