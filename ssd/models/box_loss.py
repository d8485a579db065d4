"""IoU losses of the boxes of positive priors, in place of the smooth L1 loss of their deltas."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

import ssd_ops

IoU = Callable[[Tensor, Tensor], Tensor]
IOUS: dict[str, IoU] = {
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
    return normalized_sum(one_minus_iou(IOUS[kind], loc, priors, matches, variances), matches.labels, normalizer)


def one_minus_iou(
    iou: IoU,
    loc: Tensor,  # [B, P, 4]
    priors: Tensor,  # [P, 4] xyxy
    matches: ssd_ops.PriorMatches,
    variances: Sequence[float],
) -> Tensor:
    """Returns `[B, P]`: 1 - IoU of the predicted box of each positive prior and its ground truth; 0 for other priors."""
    positive, dtype = matches.labels > 0, torch.promote_types(loc.dtype, torch.float32)
    deltas, targets, priors = loc.to(dtype), matches.loc_targets.to(dtype), priors.to(dtype).expand(len(loc), -1, -1)

    def of(deltas: Tensor, targets: Tensor, priors: Tensor) -> Tensor:
        predicted, wanted = (ssd_ops.decode_boxes(values, priors, variances) for values in (deltas, targets))
        return 1 - iou(predicted.unsqueeze(-2), wanted.unsqueeze(-2))[..., 0, 0]

    if loc.device.type != "cpu":  # all priors, because selecting the positive ones would synchronize with a GPU
        return torch.where(positive, of(deltas, targets, priors), 0.0)
    of_positive = of(deltas[positive], targets[positive], priors[positive])
    return torch.zeros_like(deltas[..., 0]).masked_scatter(positive, of_positive)


def normalized_sum(values: Tensor, labels: Tensor, normalizer: str) -> Tensor:
    """Returns the sum of values `[B, P]`, divided as `ssd_ops.multibox_loss` divides its losses for labels `[B, P]`."""
    count = (labels > 0).sum(dim=1)
    divisor = {"batch": count.sum().clamp(min=1), "image": count.clamp(min=1) * len(labels)}
    return (values.sum(dim=1) / divisor.get(normalizer, len(labels))).sum()
