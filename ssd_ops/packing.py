"""Ragged ground truths: a list with one tensor an image, or one packed tensor with offsets."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor

from ssd_ops import checks


def pack_ground_truths(
    gt_boxes: Tensor | Sequence[Tensor],
    gt_labels: Tensor | Sequence[Tensor],
    offsets: Tensor | None,
    ignore: Tensor | Sequence[Tensor] | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Return packed boxes `[sum G, 4]`, labels `[sum G]`, offsets `[B + 1]` and ignore flags, whichever form came in.

    The offsets of a list are made from the lengths alone, so no device is asked anything.
    """
    if isinstance(gt_boxes, Tensor):
        if not isinstance(gt_labels, Tensor) or isinstance(ignore, (list, tuple)):
            checks.fail("gt_labels and ignore must be tensors like gt_boxes, got a list")
        if offsets is None:
            checks.fail(
                "offsets must be given with packed gt_boxes, got None (or give a list with one tensor an image)"
            )
        return gt_boxes, gt_labels, offsets, ignore  # type: ignore[return-value]
    if offsets is not None:
        checks.fail("offsets must be None when gt_boxes is a list, got a tensor")
    boxes = [b.reshape(0, 4) if b.numel() == 0 else b for b in gt_boxes]
    _same_lengths("gt_labels", gt_labels, boxes)
    packed = [0, *accumulate(len(b) for b in boxes)]
    if not boxes:
        empty = torch.zeros(0, 4)
        return empty, empty.new_zeros(0, dtype=torch.int64), torch.tensor(packed), None
    if ignore is not None:
        _same_lengths("ignore", ignore, boxes)
    flags = None if ignore is None else torch.cat(list(ignore))
    labels = torch.cat([label.reshape(-1) for label in gt_labels])
    return torch.cat(boxes), labels, torch.tensor(packed).to(boxes[0].device, non_blocking=True), flags


def _same_lengths(name: str, values: Tensor | Sequence[Tensor], boxes: list[Tensor]) -> None:
    if isinstance(values, Tensor) or len(values) != len(boxes):
        given = "a tensor" if isinstance(values, Tensor) else f"a list of {len(values)}"
        checks.fail(f"{name} must be a list of {len(boxes)} tensors like gt_boxes, got {given}")
    for i, (value, box) in enumerate(zip(values, boxes, strict=True)):
        if len(value) != len(box):
            checks.fail(f"{name}[{i}] must have {len(box)} entries like gt_boxes[{i}], got {len(value)}")
