"""Non-maximum suppression of one set of boxes or of whole batches."""

from __future__ import annotations

import torch
from torch import Tensor

from ssd_ops import checks
from ssd_ops._autograd import call
from ssd_ops.dtypes import class_ids, floating
from ssd_ops.results import Detections


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, *, suppress_equal: bool = False) -> Tensor:
    """Return the boxes that no better kept box overlaps by more than the threshold.

    Boxes are visited by falling score, of equal scores the lowest index first, NaN before all others. A pair with a NaN
    IoU (NaN boxes, or two that are the same point) does not suppress; inverted boxes overlap nothing. A threshold that 0
    passes keeps the first box and those whose IoU with it is NaN. Memory grows with N, not with its square.

    Time grows little faster than N where boxes are spread out or suppress each other, but with N^2 where many are kept and
    the best are much smaller than the others (points before large boxes, short lines before long ones), or where crowded
    boxes all stay, under a threshold near 1. 100,000 of those take 3 to 5 seconds of a core (torchvision: about 50).

    Args:
        boxes: `[N, 4]`, xyxy, any floating dtype (computed in float32; float64 stays) or integers. Compiled kernels take
            fewer than 2^31 boxes.
        scores: `[N]`, any floating dtype or integers.
        iou_threshold: A box is suppressed at IoU above this (compared in float64, never rounded).
        suppress_equal: Whether a box whose IoU equals `iou_threshold` is suppressed, too (NVIDIA); by default it is kept
            (Caffe, torchvision). NaN never suppresses.

    Returns:
        int64 `[K]`: `keep[i]` is the index of the i-th kept box, by falling score. Its length depends on the data, so on a
        GPU the host waits: once, and for more than 16384 boxes a few times more.

    Raises:
        RuntimeError: A shape, dtype, device or the threshold does not fit.

    Source: `torchvision.ops.nms`, a drop-in for it.
    """
    boxes, scores = floating("boxes", boxes), floating("scores", scores)
    result: Tensor = call(
        "nms",
        boxes,
        scores,
        checks.real("iou_threshold", iou_threshold),
        checks.boolean("suppress_equal", suppress_equal),
    )
    return result


def batched_nms(
    boxes: Tensor, scores: Tensor, idxs: Tensor, iou_threshold: float, *, suppress_equal: bool = False
) -> Tensor:
    """Return the boxes that no better kept box of their class overlaps by more than the threshold.

    As `nms`, but boxes with different `idxs` never suppress each other. Classes are compared as numbers, not by moving
    boxes apart, so it is exact for negative coordinates, large class ids and half precision.

    Args:
        boxes: `[N, 4]`, xyxy; fewer than 2^31, as in `nms`. Any shape without elements is no boxes.
        scores: `[N]`.
        idxs: `[N]`, of any dtype but complex: the class, level or image of each box.
        iou_threshold, suppress_equal: As in `nms`.

    Returns:
        int64 `[K]`: indices of the kept boxes of all classes, by falling score, of equal scores the lowest index first.

    Raises:
        RuntimeError: A shape, dtype, device or the threshold does not fit.

    Source: `torchvision.ops.batched_nms`, a drop-in for it.
    """
    boxes, scores, idxs = floating("boxes", boxes), floating("scores", scores), class_ids("idxs", idxs)
    threshold = checks.real("iou_threshold", iou_threshold)
    if boxes.shape[-1:] != (4,) and boxes.numel() == 0:  # such as torch.tensor([])
        return torch.empty(0, dtype=torch.int64, device=boxes.device)
    result: Tensor = call(
        "batched_nms", boxes, scores, idxs, threshold, checks.boolean("suppress_equal", suppress_equal)
    )
    return result


def multiclass_nms(
    boxes: Tensor,
    scores: Tensor,
    *,
    score_threshold: float,
    iou_threshold: float,
    candidates_per_class: int,
    max_detections: int,
    suppress_equal: bool = False,
    min_size: float = 0.0,
) -> Detections:
    """Return the best detections of every image: threshold, top-k and NMS for each class, then the best over classes.

    Class 0 is the background and gives none. Candidates are ordered by falling score, of equals the lowest box first;
    detections by falling score, then class, then box. The shapes of the results do not depend on the data: every image and
    class in one call, the host never waits, and a CUDA graph can hold it. Gradients of boxes and scores go to the boxes and
    scores that they were copied from; what is kept has none.

    Args:
        boxes: `[B, N, 4]`, shared by the classes, or `[B, N, C, 4]`; xyxy.
        scores: `[B, N, C]`.
        score_threshold: Only scores strictly above it are candidates; NaN never is.
        iou_threshold: A box is suppressed at IoU above this.
        candidates_per_class: At least 1: how many of the best of a class enter its NMS.
        max_detections: D, at least 1.
        suppress_equal: As in `nms`.
        min_size: 0 or more: a box whose width or height is less (compared in float64) is no candidate and takes no place
            among the `candidates_per_class`. 0 lets every box pass, inverted ones too.

    Returns:
        `Detections(boxes [B, D, 4], scores [B, D], labels [B, D], counts [B])`, 0 behind the last detection.

    Raises:
        RuntimeError: A shape, dtype, device or option does not fit.

    Source: `DetectionOutput` of Caffe SSD; `postprocess_detections` of torchvision.
    """
    found = call(
        "multiclass_nms",
        floating("boxes", boxes),
        floating("scores", scores),
        checks.real("score_threshold", score_threshold),
        checks.real("iou_threshold", iou_threshold),
        checks.integer("candidates_per_class", candidates_per_class),
        checks.less_than("max_detections", checks.integer("max_detections", max_detections), 2**31),
        checks.boolean("suppress_equal", suppress_equal),
        checks.real("min_size", min_size),
    )
    return Detections(*found[:4])
