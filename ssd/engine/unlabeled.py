"""Objects without an annotation: where the EMA detects one, the loss ignores the priors instead of training background."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

import ssd_ops
from ssd.data import Batch
from ssd.models import SSD

MAX_PER_IMAGE = 100  # a fixed number of rows for each image keeps shapes static, as a CUDA graph needs


@torch.no_grad()
def with_unlabeled_ignored(model: SSD, images: Tensor, batch: Batch, threshold: float) -> Batch:
    """Adds the confident detections of a model that no annotation covers to a batch, as ignored objects.

    Does not synchronize with the device. Unused rows hold boxes without area, which match no prior.

    Args:
        model: In evaluation mode.
        images: [B, 3, S, S], normalized.
        batch: Its annotations, ignored ones included, cover what they overlap as much as a positive prior.
        threshold: Minimum score of a detection.
    """
    rules = model.preset.replace(score_threshold=threshold, max_detections=MAX_PER_IMAGE)
    loc, logits = model.forward_raw(images)
    detections = model.detect(loc.float(), logits.float(), rules)
    device, (count, rows) = images.device, detections.scores.shape
    boxes = detections.boxes.flatten(0, 1).to(batch.gt_boxes.dtype)  # [B * D, 4]
    annotations = torch.arange(len(batch.gt_labels), device=device)
    of_gt = torch.searchsorted(batch.offsets[1:].contiguous(), annotations, right=True)  # image of each annotation
    of_box = torch.arange(count, device=device).repeat_interleave(rows)
    overlaps = ssd_ops.box_iou(boxes, batch.gt_boxes) >= model.preset.match_iou_threshold
    covered = (overlaps & (of_box[:, None] == of_gt)).any(dim=1)
    valid = (torch.arange(rows, device=device) < detections.counts[:, None]).flatten() & ~covered
    return _with_ignored(batch, torch.where(valid[:, None], boxes, 0.0), annotations + rows * of_gt, rows)


def _with_ignored(batch: Batch, boxes: Tensor, position: Tensor, rows: int) -> Batch:
    """Appends `rows` ignored boxes to the annotations of each image; `position` is the new row of each annotation."""
    offsets = batch.offsets + rows * torch.arange(len(batch.offsets), device=boxes.device)
    new = (offsets[1:, None] - torch.arange(rows, 0, -1, device=boxes.device)).flatten()  # row of each box
    total = len(batch.gt_labels) + len(boxes)
    return replace(
        batch,
        gt_boxes=boxes.new_zeros(total, 4).index_copy(0, position, batch.gt_boxes).index_copy(0, new, boxes),
        gt_labels=batch.gt_labels.new_ones(total).index_copy(0, position, batch.gt_labels),
        ignore=batch.ignore.new_ones(total).index_copy(0, position, batch.ignore),
        offsets=offsets,
    )
