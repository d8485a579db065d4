"""Outputs of a detector as one tensor for each feature level, for tests of the ops that take them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

Cells = Sequence[tuple[int, int, int]]
"""Height, width and priors per cell of each level."""


def as_levels(rows: Tensor, cells: Cells, layout: torch.memory_format = torch.channels_last) -> list[Tensor]:
    """Returns rows `[B, P, columns]` as levels `[B, A * columns, H, W]` in a memory layout."""
    batch, _, columns = rows.shape
    levels, first = [], 0
    for height, width, per_cell in cells:
        count = height * width * per_cell
        level = rows[:, first : first + count].reshape(batch, height, width, per_cell * columns).contiguous()
        level = level.permute(0, 3, 1, 2)
        levels.append(level if layout == torch.channels_last else level.contiguous())
        first += count
    assert first == rows.shape[1]
    return levels
