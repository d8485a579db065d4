"""Soft-NMS: scores lowered by overlap instead of boxes removed."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ssd_ops import checks
from ssd_ops.reference.numbers import compute_dtype, divided, floating, passes
from ssd_ops.reference.overlap import intersection_and_union, ratio
from ssd_ops.reference.suppression import Detections, check_scored, each_class

METHODS = ("linear", "gaussian")


class SoftDetections(NamedTuple):
    """The detections of a batch, as `Detections`, and where they came from; without `B` for a single set of boxes."""

    boxes: Tensor
    """`[B, D, 4]`, xyxy; 0 behind the last detection."""
    scores: Tensor
    """`[B, D]`, lowered; 0 behind the last detection."""
    labels: Tensor
    """int64 `[B, D]`; 0, the background, behind the last detection."""
    counts: Tensor
    """int64 `[B]`: how many detections an image has."""
    indices: Tensor
    """int64 `[B, D]`: `indices[b, d] = n` means that detection d of image b is its box n; -1 behind the last detection."""


def soft_nms(
    boxes: Tensor,
    scores: Tensor,
    *,
    method: str = "gaussian",
    sigma: float = 0.5,
    iou_threshold: float = 0.3,
    score_threshold: float,
    max_detections: int | None = None,
    suppress_equal: bool = False,
    keep_equal: bool = False,
) -> SoftDetections:
    """Return the best boxes of every class and image, scores lowered by overlap; see `ssd_ops.soft_nms`."""
    boxes, scores, most, is_single = batch_of(boxes, scores, max_detections)
    found, rows = soft_nms_parts(
        boxes, scores, method, sigma, iou_threshold, score_threshold, most, suppress_equal, keep_equal
    )
    return soft_detections(found, rows, is_single)


def batch_of(boxes: Tensor, scores: Tensor, max_detections: int | None) -> tuple[Tensor, Tensor, int, bool]:
    """Return boxes `[B, N, 4]`, scores `[B, N, C]`, D, and whether boxes `[N, 4]` and scores `[N]` came in.

    The boxes of a single set are those of class 1 of one image.
    """
    boxes, scores = floating("boxes", boxes), floating("scores", scores)
    is_single = scores.dim() == 1
    if is_single:
        checks.shape("boxes", boxes, f"[{len(scores)}, 4]", boxes.shape == (len(scores), 4))
        boxes, scores = boxes[None], torch.stack([torch.zeros_like(scores), scores], dim=1)[None]
    if max_detections is None:
        max_detections = max(scores.shape[1], 1) if scores.dim() > 1 else 1
    return (
        boxes,
        scores,
        checks.less_than("max_detections", checks.integer("max_detections", max_detections), 2**31),
        is_single,
    )


def soft_detections(found: Detections, rows: Tensor, is_single: bool) -> SoftDetections:
    """Return the result as the caller's form of input asks; `rows` is 0 behind the last detection."""
    place = torch.arange(rows.shape[1], device=rows.device)
    result = SoftDetections(*found, torch.where(place < found.counts[:, None], rows, -1))
    return SoftDetections(*(tensor[0] for tensor in result)) if is_single else result


def soft_nms_parts(
    boxes: Tensor,
    scores: Tensor,
    method: str,
    sigma: float,
    iou_threshold: float,
    score_threshold: float,
    max_detections: int,
    suppress_equal: bool,
    keep_equal: bool,
) -> tuple[Detections, Tensor]:
    """Return the detections, and of each the row of `boxes` that it came from, as `multiclass_nms_parts`."""
    boxes, scores = floating("boxes", boxes), floating("scores", scores)
    check_scored(boxes, scores, score_threshold, iou_threshold, max_detections)
    check_decay(method, sigma, suppress_equal, keep_equal)
    dtype = compute_dtype(boxes, scores)
    boxes, scores = boxes.to(dtype), scores.to(dtype)

    def one_class(box: Tensor, score: Tensor) -> tuple[Tensor, Tensor]:
        waiting = passes(score, score_threshold, keep_equal).nonzero()[:, 0]
        score = score.clone()
        kept: list[Tensor] = []
        while len(waiting) and len(kept) < max_detections:
            place = int(score[waiting].sort(descending=True, stable=True).indices[0])
            best = waiting[place]
            kept.append(best)
            waiting = torch.cat([waiting[:place], waiting[place + 1 :]])
            weights = decay(box[best][None], box[waiting], method, sigma, iou_threshold, suppress_equal)[0]
            score[waiting] = score[waiting] * weights
            waiting = waiting[passes(score[waiting], score_threshold, keep_equal)]
        chosen = torch.stack(kept) if kept else waiting
        return chosen, score[chosen]

    return each_class(boxes, scores, max_detections, one_class)


def check_decay(method: str, sigma: float, suppress_equal: bool, keep_equal: bool) -> None:
    """Refuse options of `soft_nms` that do not fit."""
    checks.one_of("method", method, METHODS)
    checks.positive("sigma", sigma)
    checks.boolean("suppress_equal", suppress_equal)
    checks.boolean("keep_equal", keep_equal)


def decay(
    boxes1: Tensor, boxes2: Tensor, method: str, sigma: float, iou_threshold: float, suppress_equal: bool
) -> Tensor:
    """Return by what `boxes1` multiply the scores of `boxes2`: `[..., N, M]`; a NaN IoU lowers nothing."""
    iou = ratio(*intersection_and_union(boxes1, boxes2)).nan_to_num(0)
    if method == "gaussian":
        return torch.exp(divided(-(iou * iou), sigma))
    return torch.where(passes(iou, iou_threshold, suppress_equal), 1 - iou, 1)
