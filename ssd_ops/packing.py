"""Ragged ground truths and images: a list with one tensor an image, or one packed tensor with offsets."""

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


def pack_images(
    images: Tensor | Sequence[Tensor], offsets: Tensor | None, sizes: Tensor | None, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Return packed bytes `[N]`, offsets `[B]` and sizes `[B, 2]`, whichever form came in.

    `device` is that of an empty list, which says nothing of its own.
    """
    if isinstance(images, Tensor):
        for name, tensor in (("offsets", offsets), ("sizes", sizes)):
            if tensor is None:
                checks.fail(
                    f"{name} must be given with packed images, got None (or give a list with one tensor an image)"
                )
        return images, offsets, sizes  # type: ignore[return-value]
    if offsets is not None or sizes is not None:
        name = "sizes" if offsets is None else "offsets"
        checks.fail(f"{name} must be None when images is a list, got a tensor")
    for i, image in enumerate(images):
        checks.shape(f"images[{i}]", image, "[3, H, W]", image.dim() == 3 and image.shape[0] == 3)
        checks.dtype(f"images[{i}]", image, torch.uint8)
        checks.same_device(f"images[{i}]", image, "images[0]", images[0])
    device = images[0].device if len(images) else device
    starts = [0, *accumulate(image.numel() for image in images)][:-1] if len(images) else []
    sides = torch.tensor([image.shape[1:] for image in images], dtype=torch.int64).reshape(-1, 2)
    pixels = torch.cat([image.reshape(-1) for image in images]) if len(images) else torch.zeros(0, dtype=torch.uint8)
    places = (torch.tensor(starts, dtype=torch.int64), sides)
    starts_there, sides_there = (tensor.to(device, non_blocking=True) for tensor in places)
    return pixels.to(device), starts_there, sides_there
