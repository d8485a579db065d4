"""Non-maximum suppression of one set of boxes or of a batch."""

from __future__ import annotations

import torch
from torch import Tensor

from ssd_ops import checks
from ssd_ops._autograd import call
from ssd_ops.dtypes import class_ids, floating
from ssd_ops.reference.suppression import check_box_count
from ssd_ops.results import Detections


def nms(
    boxes: Tensor,  # [N, 4] xyxy
    scores: Tensor,  # [N]
    iou_threshold: float,
    *,
    suppress_equal: bool = False,
) -> Tensor:
    """Performs non-maximum suppression (NMS): drops every box whose IoU with a higher-scoring kept box exceeds a threshold.

    Boxes are visited by descending score; ties go to the lowest index, and NaN scores come first. A pair with a NaN IoU
    (NaN boxes, or two that are the same point) does not suppress; inverted boxes overlap nothing. Where
    an IoU of 0 suppresses, only the first box and those whose IoU with it is NaN are kept.

    Memory is O(N). Time grows little faster than N where boxes are spread out or suppress each other, but with N^2 where
    many are kept and the highest-scoring ones are much smaller than the others (points before large boxes, short lines
    before long ones), or where crowded boxes all stay, under a threshold near 1. 100,000 of those take 3 to 5 seconds on
    one CPU core (torchvision: about 50).

    Args:
        boxes: `[N, 4]`, xyxy, any floating dtype (computed in float32; float64 stays) or integers. Compiled kernels take
            fewer than 2^31 boxes.
        scores: `[N]`, any floating dtype or integers.
        iou_threshold: A box is suppressed at an IoU above this. Compared in float64, so it is never rounded.
        suppress_equal: Whether a box whose IoU equals `iou_threshold` is suppressed, too (NVIDIA); by default it is kept
            (Caffe, torchvision). NaN never suppresses.

    Returns:
        int64 `[K]`: `keep[i]` is the index of the i-th kept box, by descending score. K depends on the data, so a call on
        a GPU synchronizes with the host: once, and a few times more for more than 16384 boxes. torch's
        `set_sync_debug_mode` does not notice.

    Raises:
        RuntimeError: Invalid shape, dtype, device or threshold.

    Source: `torchvision.ops.nms`, a drop-in replacement for it.
    """
    check_box_count(boxes)
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
    boxes: Tensor,  # [N, 4] xyxy
    scores: Tensor,  # [N]
    idxs: Tensor,  # [N]
    iou_threshold: float,
    *,
    suppress_equal: bool = False,
) -> Tensor:
    """Performs NMS of each class on its own: boxes with different `idxs` never suppress each other.

    Otherwise as `nms`. Classes are compared as numbers, not by moving boxes apart, so the result is exact for negative
    coordinates, large class ids and half precision.

    Args:
        boxes: `[N, 4]`, xyxy; fewer than 2^31, as in `nms`. Any shape without elements means no boxes; of another one
            than `[0, 4]`, such as `torch.tensor([])`, the other arguments are not read.
        scores: `[N]`.
        idxs: `[N]`, any dtype but complex: the class, level or image of each box.
        iou_threshold: As in `nms`.
        suppress_equal: As in `nms`.

    Returns:
        int64 `[K]`: indices of the kept boxes of all classes, by descending score; ties go to the lowest index.

    Raises:
        RuntimeError: Invalid shape, dtype, device or threshold.

    Source: `torchvision.ops.batched_nms`, a drop-in replacement for it.
    """
    check_box_count(boxes)
    boxes = floating("boxes", boxes)
    if boxes.shape[-1:] != (4,) and boxes.numel() == 0:
        return torch.empty(0, dtype=torch.int64, device=boxes.device)
    result: Tensor = call(
        "batched_nms",
        boxes,
        floating("scores", scores),
        class_ids("idxs", idxs),
        checks.real("iou_threshold", iou_threshold),
        checks.boolean("suppress_equal", suppress_equal),
    )
    return result


def multiclass_nms(
    boxes: Tensor,  # [B, N, 4] or [B, N, C, 4] xyxy
    scores: Tensor,  # [B, N, C]
    *,
    score_threshold: float,
    iou_threshold: float,
    candidates_per_class: int,
    max_detections: int,
    suppress_equal: bool = False,
    min_size: float = 0.0,
) -> Detections:
    """Returns the best detections of every image: score threshold, top-k and NMS per class, then the best of all classes.

    Class 0 is the background and gives no detections. Candidates are ordered by descending score, ties by lowest box;
    detections by descending score, then class, then box. Shapes of the results do not depend on the data: all images and
    classes run in one call, without synchronizing with the host, and CUDA graphs can capture it. Gradients flow to the
    boxes and scores that the results were copied from; the selection has no derivative.

    Args:
        boxes: `[B, N, 4]`, shared by the classes, or `[B, N, C, 4]`; xyxy.
        scores: `[B, N, C]`.
        score_threshold: Only scores strictly above it are candidates; NaN never is.
        iou_threshold: A box is suppressed at an IoU above this.
        candidates_per_class: At least 1: how many of the highest-scoring boxes of a class enter its NMS.
        max_detections: D, at least 1.
        suppress_equal: As in `nms`.
        min_size: 0 or more: a box whose width or height is less (compared in float64) is no candidate and does not count
            among the `candidates_per_class`. 0 accepts every box, inverted ones too.

    Returns:
        `Detections(boxes [B, D, 4], scores [B, D], labels [B, D], counts [B])`, zero-padded.

    Raises:
        RuntimeError: Invalid shape, dtype, device or option.

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
