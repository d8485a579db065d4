"""Rows of logits for ops with a softmax, built so that no result depends on rounding.

Where two numbers are within rounding of each other, implementations may order them differently. So the rows of a case come
from a small pool, of which two either are the same row, and then equal in every implementation, or differ by much more than
rounding; and there are rows whose softmax is exact in every implementation.
"""

from __future__ import annotations

import torch
from hypothesis import strategies as st
from torch import Tensor

from tests.ops.properties import strategies as ours

SPECIAL = torch.tensor([float("nan"), float("inf"), -float("inf")])


@st.composite
def pool(draw: st.DrawFn, classes: int, dtype: torch.dtype, *, exact: bool) -> Tensor:
    """A few rows `[R, C]`: `exact` ones hold one number and -inf, so that each probability is 1 / k; others are random."""
    count, generator = draw(st.sampled_from((1, 3, 8))), torch.Generator().manual_seed(draw(ours.SEEDS))
    if exact:
        level = torch.tensor([0.0, 5.0, -100.0, 3e4])[torch.randint(4, (count, 1), generator=generator)]
        rows = torch.where(torch.rand(count, classes, generator=generator) < 0.5, level, -torch.inf)
    else:
        rows = torch.randn(count, classes, generator=generator) * draw(st.sampled_from((5.0, 1.0, 50.0)))
        rows = (rows * 64).round() / 64  # of one row, too, numbers are equal or differ clearly
    share = draw(st.sampled_from((0.0, 0.0, 0.02, 0.2)))
    if share:
        at = torch.rand(count, classes, generator=generator) < share
        rows = torch.where(at, SPECIAL[torch.randint(3, (count, classes), generator=generator)], rows)
    return rows.to(dtype)


def merge_close(keys: Tensor, closest: float = 1e-4) -> Tensor:
    """Returns the row to use for each row, `[R]`: an earlier one where their keys `[R, K]` are nearly equal, else itself.

    The keys of a row are the numbers that an op compares with those of other rows. NaN equals nothing.
    """
    use = torch.arange(len(keys))
    for r in range(1, len(keys)):
        for earlier in range(r):
            mine, theirs = keys[r][:, None], keys[earlier][None, :]
            near = (mine - theirs).abs() <= closest * torch.maximum(mine.abs(), theirs.abs()).clamp(min=1)
            if use[earlier] == earlier and bool(near.any()):
                use[r] = earlier
                break
    return use
