"""Soft-NMS of one set of boxes or of whole batches."""

from __future__ import annotations

from torch import Tensor

from ssd_ops import checks
from ssd_ops._autograd import call
from ssd_ops.packing import as_batch, soft_detections
from ssd_ops.results import Detections, SoftDetections


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
    """Return the best detections of every image, with scores lowered by overlap instead of boxes removed.

    For each class the box with the highest score is taken (of equals the lowest box), the scores of the others are
    multiplied by a weight that falls with their IoU with it, and those no longer above the threshold are dropped; again
    until none is left or D are taken. `gaussian` weighs with exp(-IoU^2 / sigma), `linear` with 1 - IoU where IoU is above
    `iou_threshold`. A NaN IoU lowers nothing. Results are ordered by falling final score, then class, then order of taking.

    Args:
        boxes: `[B, N, 4]`, shared by the classes, or `[B, N, C, 4]`; xyxy. Or a single set, `[N, 4]`.
        scores: `[B, N, C]`, class 0 is the background and gives no detections. Or those of a single set, `[N]`.
        method: `gaussian` or `linear`.
        sigma: Above 0; of the gaussian.
        iou_threshold: Of the linear method.
        score_threshold: Only scores above it live.
        max_detections: D, at least 1; None is N.
        suppress_equal: Whether an IoU equal to `iou_threshold` lowers a score, too.
        keep_equal: Whether a score equal to `score_threshold` is kept, too. mmcv has both.

    Returns:
        `SoftDetections(boxes [B, D, 4], scores [B, D], labels [B, D], counts [B], indices [B, D])`, 0 behind the last
        detection: `indices[b, d] = n` means that detection d of image b is its box n, -1 behind the last. Of a single set
        the same without B, its class being 1: `found.indices[: found.counts]` are the kept boxes.

    Raises:
        RuntimeError: A shape, dtype, device or option does not fit.

    Source: Bodla et al. 2017.
    """
    boxes, scores, max_detections, is_single = as_batch(boxes, scores, max_detections)
    *found, rows = call(
        "soft_nms",
        boxes,
        scores,
        method,
        checks.real("sigma", sigma),
        checks.real("iou_threshold", iou_threshold),
        checks.real("score_threshold", score_threshold),
        max_detections,
        checks.boolean("suppress_equal", suppress_equal),
        checks.boolean("keep_equal", keep_equal),
    )
    return soft_detections(Detections(*found), rows, is_single)
