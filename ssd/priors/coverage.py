"""Coverage of a data set by the priors: how many objects they match, checked before training."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

import ssd_ops
from ssd.common.class_names import display_name

_MAX_CLASSES = 20  # classes in a printed report
_MAX_IOU_ENTRIES = 1 << 18  # entries of one IoU matrix: 1 MiB of float32, which stays in the cache


@dataclass(frozen=True)
class PriorCoverage:
    """Numbers of objects that a prior matches by IoU alone, without rules that give every object its best prior.

    Args:
        iou_threshold: IoU threshold of a match.
        objects: Number of objects of each class, in the order of `names`.
        matched: Number of objects of each class whose IoU with a prior is at least the threshold.
        names: Names of the classes.
        missed_sizes: float32, normalized width and height of the objects that no prior matches.
        mean_best_iou: Mean IoU of the objects with their best prior; 0 without objects.
    """

    iou_threshold: float
    objects: tuple[int, ...]
    matched: tuple[int, ...]
    names: tuple[str, ...]
    missed_sizes: Tensor  # [M, 2]
    mean_best_iou: float

    @property
    def recall(self) -> float:
        """Fraction of the objects that a prior matches; 1 without objects."""
        return sum(self.matched) / sum(self.objects) if sum(self.objects) else 1.0

    def __str__(self) -> str:
        lines = [
            f"priors match {sum(self.matched)} of {sum(self.objects)} objects ({self.recall:.1%}) at IoU >= "
            f"{self.iou_threshold:g}; mean best IoU {self.mean_best_iou:.3f}"
        ]
        rows = [row for row in zip(self.names, self.matched, self.objects, strict=True) if row[2]]
        worst = sorted(rows, key=lambda row: row[1] / row[2])[:_MAX_CLASSES] if len(rows) > _MAX_CLASSES else rows
        lines += [f"  {display_name(name)}: {found} of {count} ({found / count:.1%})" for name, found, count in worst]
        if len(rows) > len(worst):
            lines.append(f"  {len(rows) - len(worst)} more classes, none of them lower")
        return "\n".join(lines)

    def advice(self, lowest: float = 0.8, image_size: int = 1, fitted: bool = False) -> str | None:
        """Returns advice if the recall of all objects or of a class is below `lowest`, with the sizes of missed objects.

        Classes without objects are ignored. `fitted` says that the prior sizes were fitted to these objects.
        """
        poor = [n for n, m, c in zip(self.names, self.matched, self.objects, strict=True) if c and m / c < lowest]
        if self.recall >= lowest and not poor:
            return None
        sides = self.missed_sizes.prod(dim=1).sqrt() * image_size
        quantiles = sides.quantile(sides.new_tensor([0.1, 0.5, 0.9])).tolist()
        unit = "px at the input size" if image_size > 1 else "of the image side"
        low, middle, high = (f"{side:.3g}" for side in quantiles)
        more = f", and {len(poor) - _MAX_CLASSES} more" if len(poor) > _MAX_CLASSES else ""
        return (
            f"the priors match only {self.recall:.1%} of the objects"
            + (f" (low: {', '.join(map(display_name, poor[:_MAX_CLASSES]))}{more})" if poor else "")
            + f"; the missed objects have a median size of {middle} {unit} (80% between {low} and {high}). "
            + ("Use a larger input" if fitted else "Fit prior_sizes to the data (ssd.priors.fit)")
            + ", or a finer first level"
        )


def prior_coverage(
    priors: Tensor,  # [P, 4] xyxy
    boxes: Iterable[Tensor],
    labels: Iterable[Tensor],
    names: Sequence[str],
    iou_threshold: float = 0.5,
) -> PriorCoverage:
    """Counts the objects of a data set that a prior matches.

    Boxes without area have no overlap and count as missed.

    Args:
        priors: Priors, normalized xyxy.
        boxes: Boxes `[G, 4]` of each image, normalized xyxy.
        labels: Labels `[G]` of each image, 1..len(names).
        names: Names of the classes without the background.
        iou_threshold: IoU threshold of a match.

    Returns:
        Counts over all images.

    Raises:
        ValueError: The boxes are not normalized, or a label is out of range.
    """
    packed = [b.detach().reshape(-1, 4).to(priors.device, torch.float32) for b in boxes]
    flat = torch.cat(packed) if packed else priors.new_zeros(0, 4)
    classes = [label.detach().reshape(-1).to(priors.device) for label in labels]
    label = torch.cat(classes).long() if classes else flat.new_zeros(0, dtype=torch.int64)
    if len(label) != len(flat):
        raise ValueError(f"labels must have one entry per box, {len(flat)}, got {len(label)}")
    if flat.numel() and flat.max() > 2:
        raise ValueError(f"boxes must be normalized to their image (0..1), got a coordinate of {flat.max().item():g}")
    if label.numel() and not 1 <= int(label.min()) <= int(label.max()) <= len(names):
        raise ValueError(f"labels must be in 1..{len(names)}, got {int(label.min())}..{int(label.max())}")
    iou = best_ious(priors, flat)
    found = iou >= iou_threshold
    objects = torch.bincount(label, minlength=len(names) + 1)[1:].tolist()
    matched = torch.bincount(label[found], minlength=len(names) + 1)[1:].tolist()
    missed = (flat[:, 2:] - flat[:, :2])[~found].clamp(min=0).cpu()
    mean = iou.mean().item() if len(iou) else 0.0
    return PriorCoverage(iou_threshold, tuple(objects), tuple(matched), tuple(names), missed, mean)


def best_ious(
    priors: Tensor,  # [P, 4] xyxy
    boxes: Tensor,  # [G, 4] xyxy
) -> Tensor:
    """Returns the IoU of each box with its best prior, float32 `[G]`."""
    chunk = max(1, _MAX_IOU_ENTRIES // max(1, len(priors)))
    best = [ssd_ops.box_iou(part, priors).amax(dim=1) for part in boxes.split(chunk)] if len(boxes) else []
    return torch.cat(best) if best else boxes.new_zeros(0)
