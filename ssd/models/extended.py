"""Images extended beyond their borders by reflection, and test-time augmentation that averages over such a view.

Annotators often skip objects that the border of the image cuts, and a detector learns that from them. Where the image
continues, by its mirror image, it detects them.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

import ssd_ops
from ssd.models.detector import SSD
from ssd.models.flipped import FlipAveragedSSD, flip_averaged
from ssd.models.heads import Outputs, rows_of
from ssd.presets import Preset

BORDER = 0.05  # width that is added on each side, as a fraction of the image's side
_MIN_SIDE = 0.01  # of a box, as a fraction of the image's side: objects beyond the border leave slivers inside
_SAME = 0.5  # IoU of detections of one object in both views
_MAX_DETECTIONS = 200  # in each view of an image, if the model has no limit


def extended(images: Tensor) -> Tensor:
    """Extends images [B, 3, S, S] by reflection on all sides, and resizes them to the same size."""
    side = images.shape[-1]
    wide = F.pad(images, (_margin(side),) * 4, mode="reflect")
    return F.interpolate(wide, size=(side, side), mode="bilinear", align_corners=False)


def restored(detections: ssd_ops.Detections, side: int) -> ssd_ops.Detections:
    """Returns detections in extended images as detections in the images, clipped to them.

    Those outside of the image get a score of 0 and a box without area.

    Args:
        detections: Normalized, not clipped.
        side: S, of the images.
    """
    margin = _margin(side)
    boxes = ((detections.boxes * (side + 2 * margin) - margin) / side).clamp(0, 1)
    outside = (boxes[..., 2:] - boxes[..., :2] < _MIN_SIDE).any(dim=-1)
    return detections._replace(
        boxes=boxes.masked_fill(outside[..., None], 0.0), scores=detections.scores.masked_fill(outside, 0.0)
    )


def _margin(side: int) -> int:
    return max(1, round(BORDER * side))


class ExtendedSSD(FlipAveragedSSD):
    """A detector that averages its detections in an image and in the extended image (`extended_averaged`).

    Its loc and logits are those of both views, one after the other.
    """

    def forward_raw(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Maps normalized images [B, 3, S, S] to loc [B, 2 * P, 4] and logits [B, 2 * P, C]."""
        views = [super(ExtendedSSD, self).forward_raw(view) for view in (images, extended(images))]
        loc, logits = (torch.cat(parts, dim=1) for parts in zip(*views, strict=True))
        return loc, logits

    def detect(self, loc: Outputs, logits: Outputs, rules: Preset | None = None) -> ssd_ops.Detections:
        """Returns the detections of both views, merged; arguments as those of `SSD.detect`."""
        rules = rules or self.preset
        rules = rules.replace(max_detections=rules.max_detections or _MAX_DETECTIONS)
        locs, scores = rows_of(loc, 4).chunk(2, dim=1), rows_of(logits, self.num_classes).chunk(2, dim=1)
        found = super().detect(locs[0].contiguous(), scores[0].contiguous(), rules)
        beyond = super().detect(locs[1].contiguous(), scores[1].contiguous(), rules.replace(clip_boxes=False))
        return merged(found, restored(beyond, self.image_size))


def merged(first: ssd_ops.Detections, second: ssd_ops.Detections) -> ssd_ops.Detections:
    """Merges the detections [B, D] of two views of the same images, without synchronizing.

    A detection of one view and one of the other are of the same object if each is the other's best match, by IoU times the
    lower score. The score of an object is the mean of its scores in both views, 0 in a view that does not show it, and
    its box the mean of its boxes, weighted by score. Detections of one view are never merged: NMS or Soft-NMS, which has
    selected them, decides which of those that overlap are objects.
    """
    scores = torch.minimum(first.scores[:, :, None], second.scores[:, None])
    overlap = ssd_ops.box_iou(first.boxes, second.boxes)
    is_same = (overlap >= _SAME) & (first.labels[:, :, None] == second.labels[:, None])
    match = torch.where(is_same, overlap * scores, 0.0)  # [B, D, D]
    of_first, of_second = match.max(dim=2), match.max(dim=1)
    rows = torch.arange(match.shape[1], device=match.device)
    is_merged = (of_first.values > 0) & (of_second.indices.gather(1, of_first.indices) == rows)
    is_repeated = (of_second.values > 0) & (of_first.indices.gather(1, of_second.indices) == rows)

    partner = _rows(second, of_first.indices)
    total = first.scores + partner.scores
    box = (first.scores[..., None] * first.boxes + partner.scores[..., None] * partner.boxes) / total[..., None]
    boxes = torch.cat((torch.where(is_merged[..., None], box, first.boxes), second.boxes), dim=1)
    sums = (torch.where(is_merged, total, first.scores), second.scores.masked_fill(is_repeated, 0.0))
    score = torch.cat(sums, dim=1) / 2
    labels = torch.cat((first.labels, second.labels), dim=1)
    order = score.argsort(dim=1, descending=True, stable=True)[:, : len(rows)]
    found = _rows(ssd_ops.Detections(boxes, score, labels, first.counts), order)
    exists = found.scores > 0
    return ssd_ops.Detections(
        found.boxes.where(exists[..., None], 0.0), found.scores, found.labels.where(exists, 0), exists.sum(dim=1)
    )


def _rows(detections: ssd_ops.Detections, index: Tensor) -> ssd_ops.Detections:
    """Returns the detections with the indices [B, N]."""
    return detections._replace(
        boxes=detections.boxes.gather(1, index[..., None].expand(*index.shape, 4)),
        scores=detections.scores.gather(1, index),
        labels=detections.labels.gather(1, index),
    )


def extended_averaged(model: SSD) -> SSD:
    """Returns a detector that shares the weights of a model and averages over a flip and over extended borders.

    It takes four times the time.

    Raises:
        ValueError: As `flip_averaged`.
    """
    averaged = flip_averaged(model)
    averaged.__class__ = ExtendedSSD
    return averaged
