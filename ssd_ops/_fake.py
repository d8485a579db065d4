"""Fake kernels: the checks of every op, and shapes and dtypes of its results, for meta tensors and for tracing."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from ssd_ops import checks
from ssd_ops.reference import codec, detection, images, loss, matching, overlap, soft_suppression, suppression
from ssd_ops.reference.numbers import compute_dtype

Four = tuple[Tensor, Tensor, Tensor, Tensor]
Found = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


def box_iou(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    overlap.checked(boxes1, boxes2)
    shape = (*boxes1.shape[:-1], boxes2.shape[-2])
    return boxes1.new_empty(shape, dtype=compute_dtype(boxes1, boxes2))


generalized_box_iou = distance_box_iou = complete_box_iou = box_iou


def box_iou_out(boxes1: Tensor, boxes2: Tensor, out: Tensor) -> None:
    boxes1, boxes2 = overlap.checked(boxes1, boxes2)
    overlap.check_out(out, boxes1, boxes2)
    return None


def grad_box_iou(grad: Tensor, boxes1: Tensor, boxes2: Tensor, metric: str) -> tuple[Tensor, Tensor]:
    checks.one_of("metric", metric, overlap.METRICS)
    checks.gradient(grad, "boxes1", boxes1, box_iou(boxes1, boxes2).shape)
    return _like(boxes1), _like(boxes2)


def encode_boxes(boxes: Tensor, priors: Tensor, variances: Sequence[float], code_type: str) -> Tensor:
    codec.check("boxes", boxes, priors, variances, code_type)
    return boxes.new_empty(boxes.shape, dtype=compute_dtype(boxes, priors))


def decode_boxes(deltas: Tensor, priors: Tensor, variances: Sequence[float], code_type: str) -> Tensor:
    codec.check("deltas", deltas, priors, variances, code_type)
    return deltas.new_empty(deltas.shape, dtype=compute_dtype(deltas, priors))


def grad_encode_boxes(
    grad: Tensor, boxes: Tensor, priors: Tensor, variances: Sequence[float], code_type: str
) -> tuple[Tensor, Tensor]:
    codec.check("boxes", boxes, priors, variances, code_type)
    checks.gradient(grad, "boxes", boxes, boxes.shape)
    return _like(boxes), _like(priors)


def grad_decode_boxes(
    grad: Tensor, deltas: Tensor, priors: Tensor, variances: Sequence[float], code_type: str
) -> tuple[Tensor, Tensor]:
    codec.check("deltas", deltas, priors, variances, code_type)
    checks.gradient(grad, "deltas", deltas, deltas.shape)
    return _like(deltas), _like(priors)


def match_priors(
    gt_boxes: Tensor,
    gt_labels: Tensor,
    offsets: Tensor,
    ignore: Tensor | None,
    priors: Tensor,
    iou_threshold: float,
    rule: str,
    match_equal: bool,
    variances: Sequence[float],
) -> tuple[Tensor, Tensor, Tensor]:
    matching.check(gt_boxes, gt_labels, offsets, ignore, priors, iou_threshold, rule, match_equal, variances)
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
    loss.check(loc, logits, loc_targets, labels, neg_pos_ratio, normalizer, min_negatives, mining)
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
    others = {"logits": logits, "loc_targets": loc_targets, "labels": labels, "lse": lse, "weight": weight}
    for name, tensor in others.items():
        checks.same_device(name, tensor, "loc", loc)
    return _like(loc), _like(logits)


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, suppress_equal: bool) -> Tensor:
    suppression.check_nms(boxes, scores, iou_threshold, suppress_equal)
    return _kept("nms", boxes)


def _kept(name: str, boxes: Tensor) -> Tensor:
    if boxes.device.type == "meta" and not isinstance(boxes, FakeTensor):
        checks.fail(f"{name} keeps a number of boxes that depends on their values, which tensors on meta do not have")
    kept = torch.library.get_ctx().new_dynamic_size()
    return boxes.new_empty((kept,), dtype=torch.int64)


def batched_nms(boxes: Tensor, scores: Tensor, idxs: Tensor, iou_threshold: float, suppress_equal: bool) -> Tensor:
    suppression.check_nms(boxes, scores, iou_threshold, suppress_equal)
    suppression.check_idxs(idxs, boxes)
    return _kept("batched_nms", boxes)


def multiclass_nms(
    boxes: Tensor,
    scores: Tensor,
    score_threshold: float,
    iou_threshold: float,
    candidates_per_class: int,
    max_detections: int,
    suppress_equal: bool,
    min_size: float,
) -> Found:
    suppression.check_scored(boxes, scores, score_threshold, iou_threshold, max_detections)
    suppression.check_candidates(candidates_per_class, suppress_equal, min_size)
    return _detections(scores, max_detections, compute_dtype(boxes, scores))


def soft_nms(
    boxes: Tensor,
    scores: Tensor,
    method: str,
    sigma: float,
    iou_threshold: float,
    score_threshold: float,
    max_detections: int,
    suppress_equal: bool,
    keep_equal: bool,
) -> Found:
    suppression.check_scored(boxes, scores, score_threshold, iou_threshold, max_detections)
    soft_suppression.check_decay(method, sigma, suppress_equal, keep_equal)
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
    suppress_equal: bool,
    multi_label: bool,
    min_size: float,
) -> Found:
    detection.check_raw(loc, logits, priors, variances, multi_label)
    suppression.check_thresholds(score_threshold, iou_threshold, max_detections)
    suppression.check_candidates(candidates_per_class, suppress_equal, min_size)
    return _detections(logits, max_detections, compute_dtype(loc, logits, priors))


def render_images(
    pixels: Tensor,
    offsets: Tensor,
    sizes: Tensor,
    crops: Tensor,
    flip: Tensor | None,
    color_matrices: Tensor | None,
    hue: Tensor | None,
    size: int,
    antialias: bool,
    fill: Sequence[float],
    mean: Sequence[float],
    std: Sequence[float],
    dtype: str,
) -> Tensor:
    images.check(pixels, offsets, sizes, crops, flip, color_matrices, hue, size)
    return pixels.new_empty((crops.shape[0], 3, size, size), dtype=getattr(torch, dtype))


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
