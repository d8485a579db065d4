"""Comparison with a threshold, and division, with the same rounding on every device."""

from __future__ import annotations

from torch import Tensor


def above(values: Tensor, threshold: float) -> Tensor:
    """Returns `values > threshold`, compared in float64 so that a threshold is never rounded; false for NaN."""
    return values.double() > threshold


def at_or_above(values: Tensor, threshold: float) -> Tensor:
    """Returns `values >= threshold`, compared in float64; false for NaN."""
    return values.double() >= threshold


def passes(values: Tensor, threshold: float, equal: bool) -> Tensor:
    """Returns `values >= threshold` if `equal`, else `values > threshold`, compared in float64; false for NaN."""
    return at_or_above(values, threshold) if equal else above(values, threshold)


def divided(values: Tensor, divisor: float) -> Tensor:
    """Returns `values / divisor`, rounded once on every device: for a Python number CUDA multiplies by the reciprocal."""
    return values / values.new_full((), divisor)
