"""Post-processing of a detector's raw outputs, in one op."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ssd_ops import checks
from ssd_ops._autograd import call
from ssd_ops._levels import op_and_outputs
from ssd_ops.dtypes import floating
from ssd_ops.results import Detections


def detect(
    loc: Tensor | Sequence[Tensor],  # [B, P, 4] deltas, or for each level [B, A * 4, H, W]
    logits: Tensor | Sequence[Tensor],  # [B, P, C], or for each level [B, A * C, H, W]
    priors: Tensor,  # [P, 4] xyxy
    *,
    score_threshold: float = 0.01,
    iou_threshold: float = 0.45,
    candidates_per_class: int = 400,
    max_detections: int = 200,
    variances: Sequence[float] = (0.1, 0.2),
    clip: bool = True,
    suppress_equal: bool = False,
    multi_label: bool = True,
    min_size: float = 0.0,
) -> Detections:
    """Returns the detections of a batch: softmax, score threshold, top-k, decode, clip, NMS per class, best of all classes.

    Equal to `multiclass_nms` of the decoded boxes and the softmax scores, which documents the order of ties and gradients.
    Shapes of the results do not depend on the data and the call does not synchronize with the host. Implementations may
    differ only where a score is within rounding of the threshold or of another score, or a side within rounding of
    `min_size`.

    Args:
        loc: `[B, P, 4]`, deltas; any floating dtype, computed in float32 (float64 where an input is). Or a list of the
            outputs of each feature level as a convolution leaves them, `[B, A * 4, H, W]`, whose priors are ordered by
            level, row, column and then A: equal results without concatenating them. In channels_last they are read in
            place, otherwise copied.
        logits: `[B, P, C]`, class 0 is the background; any floating dtype. A prior with a NaN logit gives no detection.
            Or a list of `[B, A * C, H, W]`, where `loc` is a list.
        priors: `[P, 4]`, xyxy, normalized coordinates.
        score_threshold: Only scores strictly above it are candidates.
        iou_threshold: A box is suppressed at an IoU above this.
        candidates_per_class: At least 1: how many of the highest-scoring priors of a class enter its NMS.
        max_detections: D, at least 1.
        variances: `(center, size)` or four numbers above 0, as in `decode_boxes`.
        clip: Whether boxes are clamped to 0 .. 1 before NMS.
        suppress_equal: As in `nms`.
        multi_label: Whether a prior is a candidate for every class whose score is above the threshold. If not, only for
            the class with the highest logit (ties go to the lowest class), and for none where that is the background.
        min_size: 0 or more, as in `multiclass_nms`, for the decoded and clipped box: 1 / 300 is one pixel of SSD300.

    Returns:
        `Detections(boxes [B, D, 4], scores [B, D], labels [B, D], counts [B])`, zero-padded; boxes are xyxy in normalized
        coordinates.

    Raises:
        RuntimeError: Invalid shape, dtype, device or option.

    Source: `DetectionOutput` of Caffe SSD; `SSD.postprocess_detections` of torchvision.
    """
    name, loc, logits = op_and_outputs("detect", loc, logits)
    found = call(
        name,
        loc,
        logits,
        floating("priors", priors),
        checks.real("score_threshold", score_threshold),
        checks.real("iou_threshold", iou_threshold),
        checks.integer("candidates_per_class", candidates_per_class),
        checks.less_than("max_detections", checks.integer("max_detections", max_detections), 2**31),
        checks.four_variances(variances),
        checks.boolean("clip", clip),
        checks.boolean("suppress_equal", suppress_equal),
        checks.boolean("multi_label", multi_label),
        checks.real("min_size", min_size),
    )
    return Detections(*found[:4])
