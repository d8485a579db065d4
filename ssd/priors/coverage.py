"""How many objects of a data set the priors can reach: the question to ask before training, not after."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

import ssd_ops
from ssd.class_names import display_name

_LISTED = 20  # classes in a printed report
_CELLS = 1 << 18  # entries of one IoU matrix: 1 MiB of float32, which stays in the cache


@dataclass(frozen=True)
class PriorCoverage:
    """Share of objects that some prior matches by its IoU alone, before rules that give every object its best prior.

    Args:
        iou_threshold: of a match.
        objects: number of objects of each class, in the order of names.
        matched: number of them that a prior overlaps at the threshold or above.
        names: of the classes.
        missed_sizes: float32 [M, 2] width and height, relative to the image, of the objects that no prior matches.
        mean_best_iou: mean over all objects of the IoU with their best prior; 0 without objects.
    """

    iou_threshold: float
    objects: tuple[int, ...]
    matched: tuple[int, ...]
    names: tuple[str, ...]
    missed_sizes: Tensor
    mean_best_iou: float

    @property
    def share(self) -> float:
        """Matched objects over all objects; 1 without objects."""
        return sum(self.matched) / sum(self.objects) if sum(self.objects) else 1.0

    def __str__(self) -> str:
        lines = [
            f"priors match {sum(self.matched)} of {sum(self.objects)} objects ({self.share:.1%}) at IoU >= "
            f"{self.iou_threshold:g}; mean best IoU {self.mean_best_iou:.3f}"
        ]
        rows = [row for row in zip(self.names, self.matched, self.objects, strict=True) if row[2]]
        worst = sorted(rows, key=lambda row: row[1] / row[2])[:_LISTED] if len(rows) > _LISTED else rows
        lines += [f"  {display_name(name)}: {found} of {count} ({found / count:.1%})" for name, found, count in worst]
        if len(rows) > len(worst):
            lines.append(f"  {len(rows) - len(worst)} more classes, none lower")
        return "\n".join(lines)

    def advice(self, lowest: float = 0.8, image_size: int = 1) -> str | None:
        """Says what to do where the share of all objects, or of a class, is below `lowest`, with the sizes of those missed.

        Classes without objects are left out.
        """
        poor = [n for n, m, c in zip(self.names, self.matched, self.objects, strict=True) if c and m / c < lowest]
        if self.share >= lowest and not poor:
            return None
        sides = (self.missed_sizes.prod(dim=1).sqrt() * image_size).quantile(torch.tensor([0.1, 0.5, 0.9])).tolist()
        unit = "px of the input" if image_size > 1 else "of the image"
        low, middle, high = (f"{side:.3g}" for side in sides)
        more = f", and {len(poor) - _LISTED} more" if len(poor) > _LISTED else ""
        return (
            f"the priors match only {self.share:.1%} of the objects"
            + (f" (low: {', '.join(map(display_name, poor[:_LISTED]))}{more})" if poor else "")
            + f"; the missed ones have sides around {middle} {unit} (80 % between {low} and {high}). Give prior_sizes "
            "that fit them (ssd.priors.fit suggests some), or a finer first level"
        )

    def warn(self, lowest: float = 0.8, image_size: int = 1) -> bool:
        """Warns with `advice` where there is any; returns whether it warned."""
        text = self.advice(lowest, image_size)
        if text is not None:
            warnings.warn(text, stacklevel=2)
        return text is not None


def prior_coverage(
    priors: Tensor,
    boxes: Iterable[Tensor],
    labels: Iterable[Tensor],
    names: Sequence[str],
    iou_threshold: float = 0.5,
) -> PriorCoverage:
    """Counts the objects of a data set that a prior matches.

    Boxes without area overlap nothing and count as missed.

    Args:
        priors: float [P, 4] xyxy, normalized to the image.
        boxes: [G, 4] xyxy of each image, normalized to it.
        labels: [G] of each image, 1..len(names).
        names: of the classes without the background.
        iou_threshold: of a match.
    Returns:
        counts over all images.
    Raises:
        ValueError: boxes are not normalized (pixels are the usual mistake), or labels are out of range.
    """
    packed = [b.detach().reshape(-1, 4).to(priors.device, torch.float32) for b in boxes]
    flat = torch.cat(packed) if packed else priors.new_zeros(0, 4)
    classes = [label.detach().reshape(-1).to(priors.device) for label in labels]
    label = torch.cat(classes).long() if classes else flat.new_zeros(0, dtype=torch.int64)
    if len(label) != len(flat):
        raise ValueError(f"labels must hold one for each box, {len(flat)}, got {len(label)}")
    if flat.numel() and flat.max() > 2:
        raise ValueError(f"boxes must be normalized to their image (0..1), got a coordinate of {flat.max().item():g}")
    if label.numel() and not 1 <= int(label.min()) <= int(label.max()) <= len(names):
        raise ValueError(f"labels must lie in 1..{len(names)}, got {int(label.min())}..{int(label.max())}")
    iou = best_ious(priors, flat)
    found = iou >= iou_threshold
    objects = torch.bincount(label, minlength=len(names) + 1)[1:].tolist()
    matched = torch.bincount(label[found], minlength=len(names) + 1)[1:].tolist()
    missed = (flat[:, 2:] - flat[:, :2])[~found].clamp(min=0).cpu()
    mean = iou.mean().item() if len(iou) else 0.0
    return PriorCoverage(iou_threshold, tuple(objects), tuple(matched), tuple(names), missed, mean)


def best_ious(priors: Tensor, boxes: Tensor) -> Tensor:
    """Returns the IoU of each box with its best prior, float32 [G].

    Args:
        priors: float [P, 4] xyxy, normalized to the image.
        boxes: float [G, 4] likewise.
    """
    chunk = max(1, _CELLS // max(1, len(priors)))
    best = [ssd_ops.box_iou(part, priors).amax(dim=1) for part in boxes.split(chunk)] if len(boxes) else []
    return torch.cat(best) if best else boxes.new_zeros(0)
