"""`multiclass_nms` and `detect` in ONNX: a batch of any size, results of fixed shapes."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ssd_ops import checks, reference
from ssd_ops.onnx_forms.suppression import non_max_suppression
from ssd_ops.reference.detection import check_raw
from ssd_ops.reference.suppression import check_candidates, check_scored

DetectionTensors = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


def detect(
    loc: Tensor,  # [B, P, 4]
    logits: Tensor,  # [B, P, C]
    priors: Tensor,  # [P, 4]
    score_threshold: float,
    iou_threshold: float,
    candidates_per_class: int,
    max_detections: int,
    variances: list[float],
    clip: bool,
    suppress_equal: bool,
    multi_label: bool,
    min_size: float,
) -> DetectionTensors:
    """Returns boxes, scores, labels, counts and the priors that they came from; see `ssd_ops.detect`."""
    check_raw(loc, logits, priors, variances, multi_label)
    boxes = reference.decode_boxes(loc, priors, variances)
    if clip:
        boxes = boxes.clamp(0, 1)
    logits = logits.to(boxes.dtype)
    scores = logits.softmax(dim=2)
    if not multi_label:
        is_best = logits.argmax(dim=2, keepdim=True) == torch.arange(logits.shape[2], device=logits.device)
        scores = torch.where(is_best, scores, -torch.inf)
    return multiclass_nms(
        boxes, scores, score_threshold, iou_threshold, candidates_per_class, max_detections, suppress_equal, min_size
    )


def multiclass_nms(
    boxes: Tensor,  # [B, N, 4] or [B, N, C, 4]
    scores: Tensor,  # [B, N, C]
    score_threshold: float,
    iou_threshold: float,
    candidates_per_class: int,
    max_detections: int,
    suppress_equal: bool,
    min_size: float,
) -> DetectionTensors:
    """Returns boxes, scores, labels, counts and the boxes that they came from; see `ssd_ops.multiclass_nms`.

    The numbers of boxes and classes are those of the example.
    """
    check_scored(boxes, scores, score_threshold, iou_threshold, max_detections)
    check_candidates(candidates_per_class, suppress_equal, min_size)
    if boxes.dtype == torch.float64 or scores.dtype == torch.float64:
        checks.fail("boxes and scores must be float32 or half precision in a program that is exported to ONNX")
    boxes, scores = boxes.to(torch.float32), scores.to(torch.float32)
    num_boxes, foreground = int(scores.shape[1]), int(scores.shape[2]) - 1
    per_class = min(candidates_per_class, num_boxes)
    scores_by_class = _candidates(boxes, scores, score_threshold, min_size)  # [B, foreground, num_boxes]
    best, indices = scores_by_class.topk(per_class, dim=2)  # [B, foreground, per_class]

    box_indices = indices.flatten(1)  # [B, foreground * per_class]
    if boxes.dim() == 4:
        boxes = boxes[:, :, 1:].transpose(1, 2).flatten(1, 2)
        first_of_class = torch.arange(foreground, device=indices.device)[:, None] * num_boxes
        candidates = _gather_boxes(boxes, (indices + first_of_class).flatten(1))
    else:
        candidates = _gather_boxes(boxes, box_indices)
    ranks = torch.arange(per_class, 0, -1, dtype=torch.float32, device=indices.device)
    ranks = torch.where(best > -torch.inf, ranks, 0).view(-1, 1, per_class)
    kept = non_max_suppression(candidates.view(-1, per_class, 4), ranks, iou_threshold, suppress_equal)
    position = kept[:, 0] * per_class + kept[:, 2]
    is_kept = torch.zeros_like(ranks).flatten().scatter(0, position, torch.ones_like(position, dtype=torch.float32))
    kept_scores = torch.where(is_kept.view(-1, foreground * per_class) > 0, best.flatten(1), -torch.inf)
    return _merged(kept_scores, candidates, box_indices, per_class, max_detections)


def _candidates(boxes: Tensor, scores: Tensor, score_threshold: float, min_size: float) -> Tensor:
    """Returns the scores of the foreground classes `[B, C - 1, N]`, -inf where a box is no candidate."""
    threshold = np.float32(score_threshold)
    if float(threshold) > score_threshold:
        threshold = np.nextafter(threshold, np.float32(-np.inf))
    is_candidate = scores > float(threshold)
    if min_size > 0:
        side = np.float32(min_size)
        if float(side) < min_size:
            side = np.nextafter(side, np.float32(np.inf))
        is_large = (boxes[..., 2:] - boxes[..., :2] >= float(side)).all(dim=-1)
        is_candidate = is_candidate & (is_large if boxes.dim() == 4 else is_large[:, :, None])
    return torch.where(is_candidate, scores, -torch.inf)[:, :, 1:].transpose(1, 2)


def _merged(
    scores: Tensor, boxes: Tensor, box_indices: Tensor, per_class: int, max_detections: int
) -> DetectionTensors:
    """Returns the best of all classes; equal scores by class, then by their order in it."""
    total = int(scores.shape[1])
    best, position = scores.topk(min(max_detections, total), dim=1)
    is_detection = best > -torch.inf
    results: tuple[Tensor, ...] = (
        torch.where(is_detection[:, :, None], _gather_boxes(boxes, position), 0),
        torch.where(is_detection, best, 0),
        torch.where(is_detection, position // per_class + 1, 0),
        torch.where(is_detection, box_indices.gather(1, position), 0),
    )
    missing = max_detections - min(max_detections, total)
    if missing > 0:
        results = tuple(F.pad(result, (0, 0) * (result.dim() - 2) + (0, missing)) for result in results)
    best_boxes, best_scores, labels, best_indices = results
    return best_boxes, best_scores, labels, is_detection.to(torch.int64).sum(dim=1), best_indices


def _gather_boxes(boxes: Tensor, indices: Tensor) -> Tensor:
    return boxes.gather(1, indices[:, :, None].expand(-1, -1, 4))
