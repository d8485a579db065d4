"""Fake kernels: the shapes and dtypes of every op's results, for `torch.compile` and `torch.export`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ssd_ops.reference.numbers import compute_dtype

Four = tuple[Tensor, Tensor, Tensor, Tensor]
Found = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


def box_iou(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    shape = (*boxes1.shape[:-1], boxes2.shape[-2])
    return boxes1.new_empty(shape, dtype=compute_dtype(boxes1, boxes2))


generalized_box_iou = distance_box_iou = complete_box_iou = box_iou


def box_iou_out(boxes1: Tensor, boxes2: Tensor, out: Tensor) -> None:
    return None


def grad_box_iou(grad: Tensor, boxes1: Tensor, boxes2: Tensor, metric: str) -> tuple[Tensor, Tensor]:
    return _like(boxes1), _like(boxes2)


def encode_boxes(boxes: Tensor, priors: Tensor, variances: Sequence[float], code_type: str) -> Tensor:
    return boxes.new_empty(boxes.shape, dtype=compute_dtype(boxes, priors))


decode_boxes = encode_boxes


def grad_encode_boxes(
    grad: Tensor, boxes: Tensor, priors: Tensor, variances: Sequence[float], code_type: str
) -> tuple[Tensor, Tensor]:
    return _like(boxes), _like(priors)


grad_decode_boxes = grad_encode_boxes


def match_priors(
    gt_boxes: Tensor,
    gt_labels: Tensor,
    offsets: Tensor,
    ignore: Tensor | None,
    priors: Tensor,
    iou_threshold: float,
    rule: str,
    positive_at: str,
    variances: Sequence[float],
) -> tuple[Tensor, Tensor, Tensor]:
    shape = (offsets.shape[0] - 1, priors.shape[0])
    index = gt_labels.new_empty(shape)
    return index, torch.empty_like(index), gt_boxes.new_empty((*shape, 4), dtype=compute_dtype(gt_boxes, priors))


def multibox_loss(
    loc: Tensor,
    logits: Tensor,
    loc_targets: Tensor,
    labels: Tensor,
    neg_pos_ratio: float,
    normalizer: str,
    min_negatives: int,
    mining: str,
) -> Four:
    dtype = compute_dtype(loc, logits, loc_targets)
    scalar, per_prior = loc.new_empty((), dtype=dtype), loc.new_empty(loc.shape[:2], dtype=dtype)
    return scalar, torch.empty_like(scalar), per_prior, torch.empty_like(per_prior)


def grad_multibox_loss(
    grad_loc_loss: Tensor,
    grad_cls_loss: Tensor,
    loc: Tensor,
    logits: Tensor,
    loc_targets: Tensor,
    labels: Tensor,
    lse: Tensor,
    weight: Tensor,
) -> tuple[Tensor, Tensor]:
    return _like(loc), _like(logits)


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, suppress_at: str) -> Tensor:
    kept = torch.library.get_ctx().new_dynamic_size()
    return boxes.new_empty((kept,), dtype=torch.int64)


def batched_nms(boxes: Tensor, scores: Tensor, idxs: Tensor, iou_threshold: float, suppress_at: str) -> Tensor:
    return nms(boxes, scores, iou_threshold, suppress_at)


def multiclass_nms(
    boxes: Tensor,
    scores: Tensor,
    score_threshold: float,
    iou_threshold: float,
    candidates_per_class: int,
    max_detections: int,
    suppress_at: str,
    min_size: float,
) -> Found:
    return _detections(scores, max_detections, compute_dtype(boxes, scores))


def soft_nms(
    boxes: Tensor,
    scores: Tensor,
    method: str,
    sigma: float,
    iou_threshold: float,
    score_threshold: float,
    max_detections: int,
    suppress_at: str,
    keep_at: str,
) -> Found:
    return _detections(scores, max_detections, compute_dtype(boxes, scores))


def detect(
    loc: Tensor,
    logits: Tensor,
    priors: Tensor,
    score_threshold: float,
    iou_threshold: float,
    candidates_per_class: int,
    max_detections: int,
    variances: Sequence[float],
    clip: bool,
    suppress_at: str,
    classes: str,
    min_size: float,
) -> Found:
    return _detections(logits, max_detections, compute_dtype(loc, logits, priors))


def render_images(
    pixels: Tensor,
    offsets: Tensor,
    sizes: Tensor,
    windows: Tensor,
    flip: Tensor | None,
    colours: Tensor | None,
    hue: Tensor | None,
    size: int,
    antialias: bool,
    fill: Sequence[float],
    mean: Sequence[float],
    std: Sequence[float],
    dtype: str,
) -> Tensor:
    return pixels.new_empty((windows.shape[0], 3, size, size), dtype=getattr(torch, dtype))


def _detections(scores: Tensor, max_detections: int, dtype: torch.dtype) -> Found:
    batch = scores.shape[0]
    labels = scores.new_empty((batch, max_detections), dtype=torch.int64)
    return (
        scores.new_empty((batch, max_detections, 4), dtype=dtype),
        scores.new_empty((batch, max_detections), dtype=dtype),
        labels,
        scores.new_empty((batch,), dtype=torch.int64),
        torch.empty_like(labels),
    )


def _like(tensor: Tensor) -> Tensor:
    return tensor.new_empty(tensor.shape)
