"""Converts torchvision's lists of images, targets and detections to and from the packed batches of the ops."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

import ssd_ops


def resize_images(images: Sequence[Tensor], size: int) -> tuple[Tensor, list[tuple[int, int]]]:
    """Warps images of any sizes to [B, 3, size, size] (bilinear); also returns the original (height, width) of each."""
    warped = []
    for i, image in enumerate(images):
        if not isinstance(image, Tensor):
            raise TypeError(f"images[{i}] must be a tensor [3, H, W], got {type(image).__name__}")
        if image.dim() != 3 or image.shape[0] != 3 or not image.numel():
            raise ValueError(f"images[{i}] must have shape [3, H, W], got {list(image.shape)}")
        if not image.is_floating_point():
            raise TypeError(f"images[{i}] must be floating point in 0..1, got {image.dtype}; divide uint8 by 255")
        if image.shape[1:] != (size, size):
            image = F.interpolate(image[None], size=(size, size), mode="bilinear", align_corners=False)[0]
        warped.append(image)
    return torch.stack(warped), [(image.shape[1], image.shape[2]) for image in images]


def pack_targets(
    targets: Sequence[dict[str, Tensor]], sizes: Sequence[tuple[int, int]], num_classes: int, device: torch.device
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Packs targets in pixels into ground truths in normalized coordinates.

    Values are validated on the device of the targets: targets on a GPU need one synchronization, those on the CPU none.

    Args:
        targets: For each image a dict of boxes [G, 4] xyxy, labels [G], and optionally ignore [G].
        sizes: (height, width) of each image.
        num_classes: Number of classes with the background; labels must be in 1..num_classes - 1.
        device: Device of the result.

    Returns:
        Boxes float32 [sum G, 4], labels int64 [sum G], offsets int64 [B + 1], ignore bool [sum G] or None.

    Raises:
        ValueError: Invalid target; the message names the image and the object.
    """
    if len(targets) != len(sizes):
        raise ValueError(f"targets must hold one dict for each of {len(sizes)} images, got {len(targets)}")
    for i, target in enumerate(targets):
        if not isinstance(target, Mapping):
            raise ValueError(f"targets[{i}] must be a dict of boxes and labels, got {type(target).__name__}")
        _check_shapes(i, target)
    # on the CPU even if the default device is another
    counts = torch.tensor([len(t["boxes"]) for t in targets], device="cpu")
    home = targets[0]["boxes"].device
    boxes = torch.cat([t["boxes"].to(home).float().reshape(-1, 4) for t in targets])
    labels = torch.cat([t["labels"].to(home) for t in targets]).long()
    _check_values(boxes, labels, counts, num_classes)
    sides = torch.tensor([(w, h, w, h) for h, w in sizes], dtype=torch.float32, device="cpu")
    scale = sides.repeat_interleave(counts, dim=0)
    offsets = torch.cat((counts.new_zeros(1), counts.cumsum(0)))
    ignore = None
    if any("ignore" in t for t in targets):
        flags = [t.get("ignore", torch.zeros(len(t["boxes"]), dtype=torch.bool, device=home)) for t in targets]
        ignore = _send(torch.cat([f.to(home).bool() for f in flags]), device)
    return _send(boxes, device) / _send(scale, device), _send(labels, device), _send(offsets, device), ignore


def split_detections(detections: ssd_ops.Detections, sizes: Sequence[tuple[int, int]]) -> list[dict[str, Tensor]]:
    """Splits padded detections into one dict per image, with boxes in its pixels; synchronizes once.

    Keys are in the order of torchvision's SSD.
    """
    scale = torch.tensor([(w, h, w, h) for h, w in sizes], dtype=detections.boxes.dtype, device="cpu")
    boxes = detections.boxes * _send(scale, detections.boxes.device)[:, None]
    return [
        {"boxes": boxes[i, :n], "scores": detections.scores[i, :n], "labels": detections.labels[i, :n]}
        for i, n in enumerate(detections.counts.tolist())
    ]


def _send(tensor: Tensor, device: torch.device) -> Tensor:
    """Copies without synchronization where that is safe, from the CPU: its memory is read before the call returns."""
    return tensor.to(device, non_blocking=tensor.device.type == "cpu")


def _check_shapes(i: int, target: dict[str, Tensor]) -> None:
    for name in ("boxes", "labels"):
        if name not in target:
            raise ValueError(f"targets[{i}] must hold {name!r}, got keys {sorted(map(str, target))}")
        if not isinstance(target[name], Tensor):
            kind = f"{type(target[name]).__module__}.{type(target[name]).__name__}".removeprefix("builtins.")
            raise ValueError(f"targets[{i}][{name!r}] must be a tensor, got {kind}; torch.as_tensor makes one")
    boxes, labels = target["boxes"], target["labels"]
    if boxes.numel() and (boxes.dim() != 2 or boxes.shape[1] != 4):
        raise ValueError(f"targets[{i}]['boxes'] must have shape [G, 4], got {list(boxes.shape)}")
    for name in ("labels", "ignore"):
        if name in target and target[name].shape != boxes.shape[:1]:
            raise ValueError(f"targets[{i}][{name!r}] must have shape [{len(boxes)}], got {list(target[name].shape)}")
    if labels.is_floating_point() or labels.is_complex():
        raise ValueError(f"targets[{i}]['labels'] must be integers, got {labels.dtype}")


def _check_values(boxes: Tensor, labels: Tensor, counts: Tensor, num_classes: int) -> None:
    flat = ~(boxes[:, 2:] > boxes[:, :2]).all(dim=1) | ~boxes.isfinite().all(dim=1)  # true for NaN too
    stray = (labels < 1) | (labels >= num_classes)
    wrong = torch.stack((flat, stray)).nonzero().tolist()  # synchronizes, if the targets are on a GPU
    if not wrong:
        return
    kind, index = wrong[0]
    ends = counts.cumsum(0).tolist()
    image = next(i for i, end in enumerate(ends) if index < end)
    gt = index - (ends[image - 1] if image else 0)
    if kind == 0:
        raise ValueError(
            f"targets[{image}]['boxes'][{gt}] must be finite with x1 < x2 and y1 < y2, got {boxes[index].tolist()}"
        )
    raise ValueError(
        f"targets[{image}]['labels'][{gt}] must be in 1..{num_classes - 1} (0 is the background; num_classes "
        f"{num_classes} counts it), got {labels[index].item()}"
    )
