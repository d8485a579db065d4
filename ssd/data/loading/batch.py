"""Batches: stacked images of one size, or packed images still to be rendered; packed ground truths."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from ssd.data.dataset import Target
from ssd.data.faults import DataError
from ssd.data.loading.packed_images import PackedImages, Unrendered


@dataclass(frozen=True)
class Batch:
    """B images with the G ground truths of all of them."""

    images: Tensor | PackedImages  # [B, 3, S, S] uint8, RGB; or what such images are rendered from
    gt_boxes: Tensor  # [G, 4] float32, xyxy, 0 .. 1 of the image
    gt_labels: Tensor  # [G] int64, 1 .. C - 1
    ignore: Tensor  # [G] bool, difficult or crowd
    offsets: Tensor  # [B + 1] int64: ground truths offsets[b] : offsets[b + 1] belong to image b
    image_ids: list[int]
    sizes: Tensor  # [B, 2] int64, height and width of the image before any transform

    def __len__(self) -> int:
        return len(self.image_ids)

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> "Batch":
        """Returns the batch on a device; `sizes` stays on the CPU, where post-processing reads it."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> "Batch":
        """Returns the batch in pinned memory; the DataLoader calls this."""
        return self._map(lambda tensor: tensor.pin_memory())

    def _map(self, function: Any) -> "Batch":
        names = [field.name for field in fields(self) if field.name not in ("image_ids", "sizes")]
        return replace(self, **{name: function(getattr(self, name)) for name in names})

    def targets(self) -> list[Target]:
        """Returns the targets as dicts again, with boxes in pixels of the image before any transform of its size."""
        bounds = self.offsets.tolist()
        out: list[Target] = []
        for index, (start, end) in enumerate(pairwise(bounds)):
            scale = self.sizes[index].flip(0).repeat(2).to(self.gt_boxes)
            out.append(
                {
                    "boxes": self.gt_boxes[start:end] * scale,
                    "labels": self.gt_labels[start:end],
                    "ignore": self.ignore[start:end],
                    "image_id": self.image_ids[index],
                }
            )
        return out


def collate(samples: Sequence[tuple[Tensor | Unrendered, Target]]) -> Batch:
    """Packs samples `(image, target)` into a batch.

    No samples give a batch of zero images, 0 x 0 pixels. A target's `size` (height, width before the transforms) is
    kept where it has one; otherwise the image's own size is taken.

    Raises:
        DataError: Images of different sizes, or not uint8 `[3, H, W]`.
    """
    targets = [target for _, target in samples]
    images, height, width = _gather([image for image, _ in samples], targets)
    return make_batch(images, targets, height, width)


def make_batch(images: Tensor | PackedImages, targets: Sequence[Target], height: int, width: int) -> Batch:
    """Packs targets whose boxes are in pixels of images of this height and width, and puts the images beside them."""
    scale = torch.tensor([width, height, width, height], dtype=torch.float32)
    counts = torch.tensor([0] + [len(target["labels"]) for target in targets])
    sizes = [tuple(target.get("size", (height, width))) for target in targets]
    return Batch(
        images=images,
        gt_boxes=torch.cat([torch.empty(0, 4), *(target["boxes"].float() for target in targets)]) / scale,
        gt_labels=torch.cat([torch.empty(0, dtype=torch.int64), *(target["labels"] for target in targets)]),
        ignore=torch.cat([torch.empty(0, dtype=torch.bool), *(target["ignore"] for target in targets)]),
        offsets=counts.cumsum(0),
        image_ids=[int(target["image_id"]) for target in targets],
        sizes=torch.tensor(sizes, dtype=torch.int64).reshape(-1, 2),
    )


def _gather(images: list[Any], targets: list[Target]) -> tuple[Tensor | PackedImages, int, int]:
    # The images of a batch together, and the height and width that their boxes count in.
    if not images:
        return torch.empty(0, 3, 0, 0, dtype=torch.uint8), 0, 0
    if isinstance(images[0], Unrendered):
        side = images[0].canvas.side
        return PackedImages.of(images), side, side
    shape = tuple(images[0].shape)
    for image, target in zip(images, targets, strict=True):
        if image.dtype != torch.uint8 or image.ndim != 3 or image.shape[0] != 3:
            raise DataError(
                f"images must be uint8 [3, H, W], got {image.dtype} {list(image.shape)} (image_id {target['image_id']})"
            )
        if tuple(image.shape) != shape:
            raise DataError(
                f"images of a batch must have one size, got {list(shape)} and {list(image.shape)} "
                f"(image_id {target['image_id']}); end the transforms with a resize"
            )
    return torch.stack(images), shape[1], shape[2]
