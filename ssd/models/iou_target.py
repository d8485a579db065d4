"""IoU-aware scores: the classification target of a positive prior is the IoU of its predicted box.

The score of a detection then estimates how well its box fits, so that NMS keeps the best box of an object, and average
precision ranks well-placed boxes first. No further output is needed: softmax scores the class with the target IoU, and the
background with the rest.

Targets need no warm-up: they do not depend on scores, boxes learn whatever the targets are, and a box starts near its
prior, which overlaps the ground truth. VarifocalNet and GFL take the IoU as it is from the first step, too.

Source: the IoU-aware classification score of Zhang et al., "VarifocalNet: An IoU-aware Dense Object Detector" (CVPR 2021),
and the IoU as a soft label of Li et al., "Generalized Focal Loss" (NeurIPS 2020); here in SSD's softmax, with hard
negative mining in place of a focal weight.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

import ssd_ops
from ssd.models.box_loss import normalized_sum, one_minus_iou
from ssd.models.heads import Outputs, rows_of


def iou_target_term(
    loc: Outputs,  # [B, P, 4], or [B, A * 4, H, W] for each level
    logits: Outputs,  # [B, P, C], or [B, A * C, H, W] for each level
    priors: Tensor,  # [P, 4] xyxy
    matches: ssd_ops.PriorMatches,
    variances: Sequence[float],
    normalizer: str,
) -> Tensor:
    """Returns what has to be added to the classification loss, so that the targets of positive priors are IoUs.

    The cross entropy of logits x with target q for the class c and 1 - q for the background is that with target 1 for c
    plus (1 - q) * (x[c] - x[0]). Its sum over the positive priors is divided as `ssd_ops.multibox_loss` divides its losses.
    Which negatives are sampled remains the same. Half precision is computed in float32; q has no gradient.
    """
    with torch.no_grad():
        rest = one_minus_iou(ssd_ops.box_iou, rows_of(loc, 4), priors, matches, variances)
    margins = torch.where(matches.labels > 0, _margins(loc, logits, matches.labels), 0.0)
    return normalized_sum(rest * margins, matches.labels, normalizer)


def _margins(loc: Outputs, logits: Outputs, labels: Tensor) -> Tensor:
    """Returns `[B, P]`: the logit of each prior's label minus that of the background, without concatenating levels."""
    views = [logits] if isinstance(logits, Tensor) else [*map(_by_cell, loc, logits)]
    margins = []
    for view, own in zip(views, labels.split([math.prod(view.shape[1:-1]) for view in views], dim=1), strict=True):
        label = own.clamp(0, view.shape[-1] - 1).reshape(view.shape[:-1])  # multibox_loss reports those out of range
        pair = view.gather(-1, torch.stack((label, torch.zeros_like(label)), dim=-1))
        pair = pair.to(torch.promote_types(pair.dtype, torch.float32))
        margins.append((pair[..., 0] - pair[..., 1]).flatten(1))
    return torch.cat(margins, dim=1)


def _by_cell(loc: Tensor, logits: Tensor) -> Tensor:
    """Returns a view `[B, H, W, A, C]` of the logits `[B, A * C, H, W]` of a level with deltas `[B, A * 4, H, W]`."""
    by_cell: Tensor = logits.permute(0, 2, 3, 1).unflatten(3, (loc.shape[1] // 4, -1))
    return by_cell
