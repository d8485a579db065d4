"""Post-processing of a detector: from its outputs to detections, by the rules of a preset."""

from __future__ import annotations

from typing import Any

from torch import Tensor

import ssd_ops
from ssd.models.heads import Outputs, rows_of
from ssd.presets import Preset


def detections(
    loc: Outputs,  # [B, P, 4], or [B, A * 4, H, W] for each level
    logits: Outputs,  # [B, P, C], or [B, A * C, H, W] for each level
    priors: Tensor,  # [P, 4] xyxy
    rules: Preset,
    num_classes: int,
) -> ssd_ops.Detections:
    """Returns the detections that score above the threshold, after NMS or Soft-NMS, padded, with normalized boxes."""
    if rules.soft_nms_sigma is not None:
        return _soft(*_decoded(loc, logits, priors, rules, num_classes), rules)
    candidates = rules.candidates_per_class or len(priors)
    limits: dict[str, Any] = {
        "score_threshold": rules.score_threshold,
        "iou_threshold": rules.nms_iou_threshold,
        "candidates_per_class": candidates,
        "max_detections": rules.max_detections or candidates * (num_classes - 1),
        "suppress_equal": rules.suppress_equal,
        "min_size": rules.min_size,
    }
    if rules.scores == "sigmoid":
        return ssd_ops.multiclass_nms(*_decoded(loc, logits, priors, rules, num_classes), **limits)
    return ssd_ops.detect(
        loc, logits, priors, variances=rules.variances, clip=rules.clip_boxes, multi_label=rules.multi_label, **limits
    )


def _decoded(loc: Outputs, logits: Outputs, priors: Tensor, rules: Preset, num_classes: int) -> tuple[Tensor, Tensor]:
    """Returns boxes [B, P, 4] and scores [B, P, C]."""
    loc, logits = rows_of(loc, 4), rows_of(logits, num_classes)
    boxes = ssd_ops.decode_boxes(loc.to(priors.dtype), priors, rules.variances)
    scores = (
        logits.to(priors.dtype).sigmoid() if rules.scores == "sigmoid" else logits.softmax(dim=-1, dtype=priors.dtype)
    )
    return (boxes.clamp(0, 1) if rules.clip_boxes else boxes), scores


def _soft(boxes: Tensor, scores: Tensor, rules: Preset) -> ssd_ops.Detections:
    if rules.min_size > 0:
        large = (boxes[..., 2:] - boxes[..., :2] >= rules.min_size).all(dim=-1, keepdim=True)
        scores = scores.where(large, 0.0)
    found = ssd_ops.soft_nms(
        boxes,
        scores.to(boxes.dtype),
        sigma=rules.soft_nms_sigma or 0.0,
        score_threshold=rules.score_threshold,
        max_detections=rules.max_detections or boxes.shape[1] * (scores.shape[2] - 1),
    )
    return ssd_ops.Detections(found.boxes, found.scores, found.labels, found.counts)
