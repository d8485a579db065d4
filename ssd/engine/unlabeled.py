"""Objects without an annotation: where the EMA detects one, the loss ignores it or trains it, instead of background.

The EMA sees the images extended by reflection: objects that the border cuts lack annotations most often, so that it learns
to skip them, and it detects them where the image continues.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

import ssd_ops
from ssd.data import Batch
from ssd.models import SSD
from ssd.models.extended import extended, restored

MAX_PER_IMAGE = 100  # a fixed number of rows for each image keeps shapes static, as a CUDA graph needs


@torch.no_grad()
def with_unlabeled(model: SSD, images: Tensor, batch: Batch, ignore_from: float, label_from: float = math.inf) -> Batch:
    """Adds the confident detections of a model that no annotation covers to a batch, as ignored objects or as objects.

    Does not synchronize with the device. Unused rows hold boxes without area, which match no prior.

    Args:
        model: In evaluation mode.
        images: [B, 3, S, S], normalized.
        batch: Its annotations, ignored ones included, cover what they overlap as much as a positive prior.
        ignore_from: Minimum score of a detection.
        label_from: Score from which a detection is an object of its class, instead of ignored.
    """
    rules = model.preset.replace(
        score_threshold=min(ignore_from, label_from),
        max_detections=MAX_PER_IMAGE,
        clip_boxes=False,
        soft_nms_sigma=None,
    )
    loc, logits = model.forward_raw(extended(images))
    detections = restored(model.detect(loc.float(), logits.float(), rules), images.shape[-1])
    device, (count, rows) = images.device, detections.scores.shape
    boxes = detections.boxes.flatten(0, 1).to(batch.gt_boxes.dtype)  # [B * D, 4]
    annotations = torch.arange(len(batch.gt_labels), device=device)
    of_gt = torch.searchsorted(batch.offsets[1:].contiguous(), annotations, right=True)  # image of each annotation
    of_box = torch.arange(count, device=device).repeat_interleave(rows)
    overlaps = ssd_ops.box_iou(boxes, batch.gt_boxes) >= model.preset.match_iou_threshold
    covered = (overlaps & (of_box[:, None] == of_gt)).any(dim=1)
    valid = (detections.scores > 0).flatten() & ~covered
    ignore = ~valid | (detections.scores.flatten() < label_from)
    labels = torch.where(ignore, 1, detections.labels.flatten())
    position = annotations + rows * of_gt
    return _with_objects(batch, torch.where(valid[:, None], boxes, 0.0), labels, ignore, position)


def _with_objects(batch: Batch, boxes: Tensor, labels: Tensor, ignore: Tensor, position: Tensor) -> Batch:
    """Appends as many objects to the annotations of each image; `position` is the new row of each annotation."""
    rows = len(boxes) // len(batch)
    offsets = batch.offsets + rows * torch.arange(len(batch.offsets), device=boxes.device)
    new = (offsets[1:, None] - torch.arange(rows, 0, -1, device=boxes.device)).flatten()  # row of each box

    def joined(annotated: Tensor, added: Tensor) -> Tensor:
        whole = added.new_empty(len(annotated) + len(added), *added.shape[1:])
        return whole.index_copy(0, position, annotated).index_copy(0, new, added)

    return replace(
        batch,
        gt_boxes=joined(batch.gt_boxes, boxes),
        gt_labels=joined(batch.gt_labels, labels.to(batch.gt_labels.dtype)),
        ignore=joined(batch.ignore, ignore),
        offsets=offsets,
    )
