"""Comparison with a threshold, and division, with the same rounding on every device."""

from __future__ import annotations

from torch import Tensor


def above(values: Tensor, threshold: float) -> Tensor:
    """Return `values > threshold`, compared in float64 so that a threshold is never rounded. NaN is not above."""
    return values.double() > threshold


def at_or_above(values: Tensor, threshold: float) -> Tensor:
    """Return `values >= threshold`, compared in float64. NaN is not above."""
    return values.double() >= threshold


def passes(values: Tensor, threshold: float, equal: bool) -> Tensor:
    """Return `values >= threshold` where `equal` is true, else `values > threshold`; in float64. NaN does not pass."""
    return at_or_above(values, threshold) if equal else above(values, threshold)


def divided(values: Tensor, divisor: float) -> Tensor:
    """Return `values / divisor`, rounded once on every device: by a Python number CUDA multiplies with the reciprocal."""
    return values / values.new_full((), divisor)
