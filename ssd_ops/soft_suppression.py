"""Soft-NMS of one set of boxes or of whole batches."""

from __future__ import annotations

from torch import Tensor

from ssd_ops import checks
from ssd_ops._autograd import call
from ssd_ops.packing import as_batch, soft_detections
from ssd_ops.results import Detections, SoftDetections


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
) -> SoftDetections:
    """Performs Soft-NMS: the scores of boxes that overlap a detection decay instead of the boxes being removed.

    For each class the box with the highest score becomes a detection (ties go to the lowest box), the scores of the
    remaining boxes are multiplied by a weight that decreases with their IoU with it, and boxes whose score is no longer
    above the threshold are dropped; this repeats until no box is left or there are D detections. The weight is
    exp(-IoU^2 / sigma) for `gaussian`, and 1 - IoU where IoU is above `iou_threshold` for `linear`. With a NaN IoU a score
    does not decay. Detections are ordered by descending final score, then class, then order of selection.

    Args:
        boxes: `[B, N, 4]`, shared by the classes, or `[B, N, C, 4]`; xyxy. Or a single set, `[N, 4]`.
        scores: `[B, N, C]`, class 0 is the background and gives no detections. Or those of a single set, `[N]`.
        method: `gaussian` or `linear`.
        sigma: Above 0; for `gaussian`.
        iou_threshold: For `linear`.
        score_threshold: Only boxes with a score above it remain.
        max_detections: D, at least 1; None means N, and is rejected where `torch.compile` does not know N.
        suppress_equal: Whether a score also decays at an IoU equal to `iou_threshold`.
        keep_equal: Whether a score equal to `score_threshold` is kept, too. mmcv has both.

    Returns:
        `SoftDetections(boxes [B, D, 4], scores [B, D], labels [B, D], counts [B], indices [B, D])`, zero-padded:
        `indices[b, d] = n` means that detection d of image b is its box n; padded with -1. For a single set, whose class
        is 1, the same without B: `found.indices[: found.counts]` are the kept boxes.

    Raises:
        RuntimeError: Invalid shape, dtype, device or option.

    Source: Bodla et al. 2017.
    """
    boxes, scores, max_detections, is_single = as_batch(boxes, scores, max_detections)
    *found, box_indices = call(
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
    return soft_detections(Detections(*found), box_indices, is_single)
