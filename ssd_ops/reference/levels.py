"""The outputs of a detector as rows: from one tensor for each feature level, as convolutions leave them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ssd_ops import checks
from ssd_ops.dtypes import floating
from ssd_ops.sizes import same_sizes

Outputs = Tensor | Sequence[Tensor]


def rows_of_outputs(loc: Outputs, logits: Outputs) -> tuple[Tensor, Tensor]:
    """Returns loc `[B, P, 4]` and logits `[B, P, C]` of outputs in either form."""
    if not isinstance(loc, (list, tuple)) and not isinstance(logits, (list, tuple)):
        return floating("loc", loc), floating("logits", logits)
    return rows_of_levels(*floating_levels(loc, logits))


def rows_of_levels(loc: Sequence[Tensor], logits: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Returns loc `[B, P, 4]` and logits `[B, P, C]` of levels `[B, A * 4, H, W]` and `[B, A * C, H, W]`.

    Row `(y * W + x) * A + a` of a level has channels `a * C .. a * C + C - 1` of cell (x, y); levels follow each other.

    Raises:
        RuntimeError: The levels have other shapes, dtypes or devices.
    """
    _check_levels(loc, logits)
    return _rows(loc, 4), _rows(logits, num_classes(loc, logits))


def num_classes(loc: Sequence[Tensor], logits: Sequence[Tensor]) -> int:
    """Returns C of levels `[B, A * 4, H, W]` and `[B, A * C, H, W]`."""
    return logits[0].shape[1] // (loc[0].shape[1] // 4)


def levels_of_rows(rows: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """Returns rows `[B, P, columns]` as the levels that they come from, in channels_last."""
    sizes = [(level.shape[2], level.shape[3], level.shape[1]) for level in like]
    parts = rows.split([height * width * channels // rows.shape[2] for height, width, channels in sizes], dim=1)
    return [
        part.reshape(rows.shape[0], *size).contiguous().permute(0, 3, 1, 2)
        for part, size in zip(parts, sizes, strict=True)
    ]


def _rows(levels: Sequence[Tensor], columns: int) -> Tensor:
    rows = []
    for level in levels:
        num_images, channels, height, width = level.shape
        # a view, not a copy, where the network runs in channels_last
        rows.append(level.permute(0, 2, 3, 1).reshape(num_images, channels // columns * height * width, columns))
    return torch.cat(rows, dim=1)


def floating_levels(loc: Outputs, logits: Outputs) -> tuple[list[Tensor], list[Tensor]]:
    """Returns the levels of both outputs as floating tensors."""
    if not isinstance(loc, (list, tuple)):
        checks.fail("loc must be a list with one tensor for each level like logits, got a tensor")
    if not isinstance(logits, (list, tuple)):
        checks.fail("logits must be a list with one tensor for each level like loc, got a tensor")
    return _floating("loc", [*loc]), _floating("logits", [*logits])


def _floating(name: str, levels: list[Tensor]) -> list[Tensor]:
    for level in levels:
        plain = type(level) is Tensor and level.dtype in checks.FLOATS and level.layout == torch.strided
        if not plain or level.is_nested:
            return [floating(f"{name}[{k}]", level) for k, level in enumerate(levels)]
    return levels


def _check_levels(loc: Sequence[Tensor], logits: Sequence[Tensor]) -> None:
    """Validates the levels of both outputs."""
    if not loc:
        checks.fail("loc must be a list of at least 1 tensor, got a list of 0")
    if len(logits) != len(loc):
        checks.fail(f"logits must be a list of {len(loc)} tensors like loc, got a list of {len(logits)}")
    classes: int | None = None
    for k, (deltas, scores) in enumerate(zip(loc, logits, strict=True)):
        num_images = loc[0].shape[0] if k else "B"
        fits = (
            deltas.dim() == 4
            and same_sizes(deltas.shape[:1], loc[0].shape[:1])
            and deltas.shape[1] > 0
            and deltas.shape[1] % 4 == 0
        )
        _check_level("loc", k, deltas, f"[{num_images}, A * 4, H, W]", fits, loc, loc[0])
        per_cell, size = deltas.shape[1] // 4, deltas.shape[2:]
        fits = scores.dim() == 4 and same_sizes((scores.shape[0], *scores.shape[2:]), (loc[0].shape[0], *size))
        fits = fits and scores.shape[1] % per_cell == 0
        if classes is None and fits:
            classes = scores.shape[1] // per_cell
        expected = f"[{loc[0].shape[0]}, {per_cell} * {classes if k else 'C'}, {size[0]}, {size[1]}]"
        _check_level(
            "logits", k, scores, expected, fits and scores.shape[1] == per_cell * (classes or 0), loc, logits[0]
        )
        if not classes:
            checks.fail(f"logits[0] must have at least 1 class, the background, got shape {list(scores.shape)}")


def check_rows(loc: Tensor, logits: Tensor) -> None:
    """Validates shapes and dtypes of loc `[B, P, 4]` and logits `[B, P, C]`."""
    checks.boxes("loc", loc, "[B, P, 4]", 3)
    fits = logits.dim() == 3 and same_sizes(logits.shape[:2], loc.shape[:2])
    checks.shape("logits", logits, f"[{loc.shape[0]}, {loc.shape[1]}, C]", fits)
    checks.floating("logits", logits)
    if logits.shape[2] < 1:
        checks.fail(f"logits must have at least 1 class, the background, got shape {list(logits.shape)}")


def _check_level(
    kind: str, level: int, tensor: Tensor, expected: str, fits: bool, loc: Sequence[Tensor], first: Tensor
) -> None:
    name = f"{kind}[{level}]"
    checks.shape(name, tensor, expected, fits)
    checks.floating(name, tensor)
    if tensor.dtype != first.dtype:
        given, wanted = (str(dtype).removeprefix("torch.") for dtype in (tensor.dtype, first.dtype))
        checks.fail(f"{name} must have the dtype of {kind}[0], {wanted}, got {given}")
    checks.same_device(name, tensor, "loc[0]", loc[0])
