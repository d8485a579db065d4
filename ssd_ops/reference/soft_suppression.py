"""Soft-NMS: scores decay with overlap instead of boxes being removed."""

from __future__ import annotations

import torch
from torch import Tensor

from ssd_ops import checks
from ssd_ops.dtypes import compute_dtype
from ssd_ops.packing import as_batch, soft_detections
from ssd_ops.reference.arithmetic import divided, passes
from ssd_ops.reference.outputs import returns
from ssd_ops.reference.overlap import intersection_and_union, ratio
from ssd_ops.reference.suppression import check_scored, each_class
from ssd_ops.results import Detections, SoftDetections

METHODS = ("linear", "gaussian")
DECAY = ("method", "sigma", "iou_threshold", "suppress_equal")  # the options that `decay` takes


def _as_given(outputs: tuple[Detections, Tensor, bool]) -> SoftDetections:
    return soft_detections(*outputs)


@returns(_as_given)
def soft_nms(
    boxes: Tensor,  # [B, N, 4], [B, N, C, 4] or [N, 4] xyxy
    scores: Tensor,  # [B, N, C] or [N]
    *,
    method: str = "gaussian",
    sigma: float = 0.5,
    iou_threshold: float = 0.3,
    score_threshold: float,
    max_detections: int | None = None,
    suppress_equal: bool = False,
    keep_equal: bool = False,
) -> tuple[Detections, Tensor, bool]:
    """Returns the best boxes of every class and image, with decayed scores; see `ssd_ops.soft_nms`.

    The outputs are the detections of a batch, the box that each came from, int64 `[B, D]`, zero-padded, and whether the
    input was a single set.
    """
    boxes, scores, max_detections, is_single = as_batch(boxes, scores, max_detections)
    check_scored(boxes, scores, score_threshold, iou_threshold, max_detections)
    check_decay(method, sigma, suppress_equal, keep_equal)
    sigma = checks.real("sigma", sigma)
    dtype = compute_dtype(boxes, scores)
    boxes, scores = boxes.to(dtype), scores.to(dtype)

    def one_class(box: Tensor, score: Tensor) -> tuple[Tensor, Tensor]:
        remaining = passes(score, score_threshold, keep_equal).nonzero()[:, 0]
        score = score.clone()
        kept: list[Tensor] = []
        while len(remaining) and len(kept) < max_detections:
            index = int(score[remaining].sort(descending=True, stable=True).indices[0])
            best = remaining[index]
            kept.append(best)
            remaining = torch.cat([remaining[:index], remaining[index + 1 :]])
            weights = decay(box[best][None], box[remaining], method, sigma, iou_threshold, suppress_equal)[0]
            score[remaining] = score[remaining] * weights
            remaining = remaining[passes(score[remaining], score_threshold, keep_equal)]
        selected = torch.stack(kept) if kept else remaining
        return selected, score[selected]

    return *each_class(boxes, scores, max_detections, one_class), is_single


def check_decay(method: str, sigma: float, suppress_equal: bool, keep_equal: bool) -> None:
    """Validates options of `soft_nms`."""
    checks.one_of("method", method, METHODS)
    checks.positive("sigma", sigma)
    checks.boolean("suppress_equal", suppress_equal)
    checks.boolean("keep_equal", keep_equal)


def decay(
    boxes1: Tensor, boxes2: Tensor, method: str, sigma: float, iou_threshold: float, suppress_equal: bool
) -> Tensor:
    """Returns the factors `[..., N, M]` by which `boxes1` lower the scores of `boxes2`; 1 for a NaN IoU."""
    iou = ratio(*intersection_and_union(boxes1, boxes2)).nan_to_num(0)
    if method == "gaussian":
        return torch.exp(divided(-(iou * iou), sigma))
    return torch.where(passes(iou, iou_threshold, suppress_equal), 1 - iou, 1)
