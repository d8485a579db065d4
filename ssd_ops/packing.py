"""Inputs in several forms: ragged ground truths and images, as lists or packed, and boxes of one image."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor

from ssd_ops import checks
from ssd_ops.dtypes import floating
from ssd_ops.results import Detections, SoftDetections
from ssd_ops.sizes import is_unknown, same_sizes


def pack_ground_truths(
    gt_boxes: Tensor | Sequence[Tensor],  # [sum G, 4] xyxy, or one [G_i, 4] per image
    gt_labels: Tensor | Sequence[Tensor],  # [sum G] int64, or one [G_i] per image
    offsets: Tensor | None,  # [B + 1] int64
    ignore: Tensor | Sequence[Tensor] | None,  # [sum G] bool, or one [G_i] per image
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Returns packed boxes `[sum G, 4]`, labels `[sum G]`, offsets `[B + 1]` and `ignore` for either form of input.

    The offsets of a list come from its starts, without synchronizing with a device.
    """
    if isinstance(gt_boxes, Tensor):
        if isinstance(gt_labels, (list, tuple)) or isinstance(ignore, (list, tuple)):
            checks.fail("gt_labels and ignore must be tensors like gt_boxes, got a list")
        if offsets is None:
            checks.fail(
                "offsets must be given with packed gt_boxes, got None (or give a list with one tensor an image)"
            )
        checks.tensor("gt_labels", gt_labels)
        checks.tensor("offsets", offsets)
        if ignore is not None:
            checks.tensor("ignore", ignore)
        return floating("gt_boxes", gt_boxes), gt_labels, offsets, ignore  # type: ignore[return-value]
    _require_list("gt_boxes", gt_boxes)
    if offsets is not None:
        checks.fail("offsets must be None when gt_boxes is a list, got a tensor")
    given = [floating(f"gt_boxes[{i}]", b) for i, b in enumerate(gt_boxes)]
    boxes = [b.reshape(0, 4) if b.shape[1:] != (4,) and b.numel() == 0 else b for b in given]
    _same_lengths("gt_labels", gt_labels, boxes)
    starts = [0, *accumulate(b.shape[0] for b in boxes)]  # torch.export replaces len() by a constant
    if not boxes:
        empty = torch.zeros(0, 4, dtype=torch.float32, device="cpu")
        return empty, empty.new_zeros(0, dtype=torch.int64), torch.tensor(starts, device="cpu"), None
    if ignore is not None:
        _same_lengths("ignore", ignore, boxes)
    packed_ignore = None if ignore is None else _joined(ignore, torch.bool)
    labels = _joined(gt_labels, torch.int64)
    offsets = torch.tensor(starts, device="cpu").to(boxes[0].device, non_blocking=True)
    return torch.cat(boxes), labels, offsets, packed_ignore


def _same_lengths(name: str, values: Tensor | Sequence[Tensor], boxes: list[Tensor]) -> None:
    if not isinstance(values, Tensor):
        _require_list(name, values)
    if isinstance(values, Tensor) or len(values) != len(boxes):
        given = "a tensor" if isinstance(values, Tensor) else f"a list of {len(values)}"
        checks.fail(f"{name} must be a list of {len(boxes)} tensors like gt_boxes, got {given}")
    for i, (value, box) in enumerate(zip(values, boxes, strict=True)):
        checks.tensor(f"{name}[{i}]", value)
        # While a program is compiled, lengths may be unknown; the op compares their sums.
        if torch.compiler.is_compiling() or value.numel() + len(box) == 0:
            continue
        checks.shape(f"{name}[{i}]", value, f"[{len(box)}] like gt_boxes[{i}]", value.shape == (len(box),))


def _joined(values: Tensor | Sequence[Tensor], dtype: torch.dtype) -> Tensor:
    """Returns all tensors concatenated; empty ones become `dtype`, because torch makes an empty list float32."""
    return torch.cat(
        [
            value if (value.dtype == dtype and value.dim() == 1) or value.numel() else value.reshape(0).to(dtype)
            for value in values
        ]
    )


def _require_list(name: str, value: object) -> None:
    if not isinstance(value, (list, tuple)):
        raise TypeError(f"{name} must be a torch.Tensor, or a list with one for each image, got {type(value).__name__}")


def pack_images(
    images: Tensor | Sequence[Tensor],  # [N] uint8, or one [3, H, W] per image
    offsets: Tensor | None,  # [B] int64
    sizes: Tensor | None,  # [B, 2] int64: height, width
    device: torch.device,
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns packed bytes `[N]`, offsets `[B]` and sizes `[B, 2]` for either form of input.

    `device` is used for an empty list.
    """
    if isinstance(images, Tensor):
        checks.tensor("images", images)
        for name, tensor in (("offsets", offsets), ("sizes", sizes)):
            if tensor is None:
                checks.fail(
                    f"{name} must be given with packed images, got None (or give a list with one tensor an image)"
                )
        return images, offsets, sizes  # type: ignore[return-value]
    _require_list("images", images)
    if offsets is not None or sizes is not None:
        name = "sizes" if offsets is None else "offsets"
        checks.fail(f"{name} must be None when images is a list, got a tensor")
    for i, image in enumerate(images):
        checks.tensor(f"images[{i}]", image)
        checks.shape(f"images[{i}]", image, "[3, H, W]", image.dim() == 3 and image.shape[0] == 3)
        checks.dtype(f"images[{i}]", image, torch.uint8)
        checks.same_device(f"images[{i}]", image, "images[0]", images[0])
    device = images[0].device if len(images) else device
    starts = [0, *accumulate(image.numel() for image in images)][:-1] if len(images) else []
    sides = torch.tensor([image.shape[1:] for image in images], dtype=torch.int64, device="cpu").reshape(-1, 2)
    pixels = (
        torch.cat([image.reshape(-1) for image in images])
        if len(images)
        else torch.zeros(0, dtype=torch.uint8, device="cpu")
    )
    layout = (torch.tensor(starts, dtype=torch.int64, device="cpu"), sides)
    starts_on_device, sides_on_device = (tensor.to(device, non_blocking=True) for tensor in layout)
    return pixels.to(device), starts_on_device, sides_on_device


def as_batch(
    boxes: Tensor,  # [B, N, 4], [B, N, C, 4] or [N, 4] xyxy
    scores: Tensor,  # [B, N, C] or [N]
    max_detections: int | None,
) -> tuple[Tensor, Tensor, int, bool]:
    """Returns boxes `[B, N, 4]`, scores `[B, N, C]`, D, and whether a single set was given.

    A single set becomes class 1 of one image.
    """
    boxes, scores = floating("boxes", boxes), floating("scores", scores)
    is_single = scores.dim() == 1
    if is_single:
        count = scores.shape[0]
        if not same_sizes(boxes.shape, (count, 4)):  # torch 2.11 compiles no text with an unknown size
            checks.shape("boxes", boxes, f"[{count}, 4]", False)
        boxes, scores = boxes[None], torch.stack([torch.zeros_like(scores), scores], dim=1)[None]
    if max_detections is None:
        if scores.dim() > 1 and is_unknown(scores.shape[1]):
            checks.fail("max_detections must be given where the compiler does not know the number of boxes, got None")
        max_detections = max(scores.shape[1], 1) if scores.dim() > 1 else 1
    return (
        boxes,
        scores,
        checks.less_than("max_detections", checks.integer("max_detections", max_detections), 2**31),
        is_single,
    )


def soft_detections(found: Detections, box_indices: Tensor, is_single: bool) -> SoftDetections:
    """Returns detections with their indices, without B for a single set; `box_indices` is zero-padded."""
    order = torch.arange(box_indices.shape[1], device=box_indices.device)
    result = SoftDetections(*found, torch.where(order < found.counts[:, None], box_indices, -1))
    return SoftDetections(*(tensor[0] for tensor in result)) if is_single else result
