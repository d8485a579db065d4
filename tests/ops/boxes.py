"""Inputs and comparisons that the op tests share."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def random_boxes(*shape: int, seed: int = 0, scale: float = 1.0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Returns boxes `[*shape, 4]` in about 0 .. `scale`, all with an area, many of which overlap."""
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(*shape, 2, generator=generator, dtype=torch.float64)
    size = torch.rand(*shape, 2, generator=generator, dtype=torch.float64) * 0.3 + 0.02
    return (torch.cat([corner, corner + size], dim=-1) * scale).to(dtype)


def tied_boxes(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Returns boxes `[*shape, 4]` on a grid of 4 x 4 points: equal ones, touching ones, points, lines, inverted ones."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 4, (*shape, 4), generator=generator).to(dtype)


def degenerate_boxes(dtype: torch.dtype = torch.float32) -> Tensor:
    """Returns boxes `[N, 4]` with NaN, inf, huge, tiny, subnormal and negative coordinates among plain ones."""
    nan, inf, big = float("nan"), float("inf"), torch.finfo(dtype).max
    tiny = torch.finfo(dtype).smallest_normal / 4
    return torch.tensor(
        [
            [0, 0, 1, 1],
            [nan, 0, 1, 1],
            [0, 0, 1, nan],
            [nan, nan, nan, nan],
            [-inf, -inf, inf, inf],
            [0, 0, inf, 1],
            [inf, 0, inf, 1],
            [-big, -big, big, big],
            [0, 0, big, big],
            [0, 0, tiny, tiny],
            [-tiny, 0, tiny, 1],
            [1, 1, 0, 0],
            [0.5, 0, 0.5, 1],
            [0.5, 0.5, 0.5, 0.5],
            [-3, -3, -1, -1],
            [-2, -2, 0.5, 0.5],
        ],
        dtype=dtype,
    )


def assert_equal(actual: Tensor, expected: Tensor) -> None:
    """Asserts equal shape, dtype and values; NaN equals NaN, and 0 equals -0."""
    torch.testing.assert_close(actual, expected, rtol=0, atol=0, equal_nan=True)


def assert_all_equal(actual: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
    """Asserts that several results are equal."""
    assert len(actual) == len(expected)
    for one, other in zip(actual, expected, strict=True):
        assert_equal(one, other)
