"""IoU losses of the boxes of positive priors, in place of the smooth L1 loss of their deltas."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

import ssd_ops

IOUS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "giou": ssd_ops.generalized_box_iou,
    "diou": ssd_ops.distance_box_iou,
    "ciou": ssd_ops.complete_box_iou,
}


def iou_loss(
    kind: str,
    loc: Tensor,  # [B, P, 4]
    priors: Tensor,  # [P, 4] xyxy
    matches: ssd_ops.PriorMatches,
    variances: Sequence[float],
    normalizer: str,
) -> Tensor:
    """Returns the sum of 1 - IoU over all positive priors, divided as `ssd_ops.multibox_loss` divides its losses.

    Args:
        kind: "giou", "diou" or "ciou".
        loc: Predicted deltas; half precision is computed in float32.
        priors: The priors.
        matches: Their assignment.
        variances: Those of the deltas.
        normalizer: "batch", "image" or "batch_size", as in `ssd_ops.multibox_loss`.
    """
    positive = matches.labels > 0
    deltas, targets, priors = loc.float(), matches.loc_targets.float(), priors.float().expand(len(loc), -1, -1)
    if loc.is_cuda:  # all priors, because selecting the positive ones would synchronize with the GPU
        values = torch.where(positive, _one_minus_iou(kind, deltas, targets, priors, variances), 0.0)
    else:
        of_positive = _one_minus_iou(kind, deltas[positive], targets[positive], priors[positive], variances)
        values = torch.zeros_like(deltas[..., 0]).masked_scatter(positive, of_positive)
    count = positive.sum(dim=1)
    divisor = {"batch": count.sum().clamp(min=1), "image": count.clamp(min=1) * len(loc)}
    return (values.sum(dim=1) / divisor.get(normalizer, len(loc))).sum()


def _one_minus_iou(kind: str, loc: Tensor, targets: Tensor, priors: Tensor, variances: Sequence[float]) -> Tensor:
    predicted, wanted = (ssd_ops.decode_boxes(deltas, priors, variances) for deltas in (loc, targets))
    return 1 - IOUS[kind](predicted.unsqueeze(-2), wanted.unsqueeze(-2))[..., 0, 0]
