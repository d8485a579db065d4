"""Post-processing of raw outputs: softmax, threshold, decode, clip, NMS per class."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ssd_ops import checks
from ssd_ops.dtypes import compute_dtype, floating
from ssd_ops.reference.codec import decode_boxes
from ssd_ops.reference.levels import check_rows, rows_of_outputs
from ssd_ops.reference.outputs import all_outputs, first, returns
from ssd_ops.reference.suppression import multiclass_nms
from ssd_ops.results import Detections
from ssd_ops.sizes import same_sizes


@returns(first)
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
) -> tuple[Detections, Tensor]:
    """Returns the detections of a batch; see `ssd_ops.detect`.

    The second output is the prior that each detection came from: int64 `[B, D]`, zero-padded.
    """
    loc, logits = rows_of_outputs(loc, logits)
    priors = floating("priors", priors)
    check_raw(loc, logits, priors, variances, multi_label)
    dtype = compute_dtype(loc, logits, priors)
    boxes = decode_boxes(loc.to(dtype), priors.to(dtype), checks.four_variances(variances))
    if checks.boolean("clip", clip):
        boxes = boxes.clamp(0, 1)
    scores = torch.softmax(logits.to(dtype), dim=2)
    if not multi_label:
        best = logits.to(dtype).argmax(dim=2, keepdim=True)  # ties go to the lowest class
        scores = torch.full_like(scores, torch.nan).scatter(2, best, scores.gather(2, best))  # NaN is no candidate
    found: tuple[Detections, Tensor] = all_outputs(multiclass_nms)(
        boxes,
        scores,
        score_threshold=score_threshold,
        iou_threshold=iou_threshold,
        candidates_per_class=candidates_per_class,
        max_detections=max_detections,
        suppress_equal=suppress_equal,
        min_size=min_size,
    )
    return found


def check_raw(loc: Tensor, logits: Tensor, priors: Tensor, variances: Sequence[float], multi_label: bool) -> None:
    """Validates tensors and options of `detect`."""
    check_rows(loc, logits)
    num_priors = loc.shape[1]
    checks.shape("priors", priors, f"[{num_priors}, 4]", same_sizes(priors.shape, (num_priors, 4)))
    checks.floating("priors", priors)
    checks.same_device("logits", logits, "loc", loc)
    checks.same_device("priors", priors, "loc", loc)
    checks.boolean("multi_label", multi_label)
    checks.variances(checks.four_variances(variances))
