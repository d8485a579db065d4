"""Results as functions of the inputs that they came from, once it is known which: what autograd differentiates.

An op chooses (which boxes are kept, which priors take part) and computes. The choice has no derivative; each function here
repeats what is computed of the chosen, so that it can be differentiated as often and in whichever mode one likes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ssd_ops.dtypes import compute_dtype
from ssd_ops.reference.codec import decode_boxes, encode_boxes
from ssd_ops.reference.loss import _lse_and_cross_entropy
from ssd_ops.reference.soft_suppression import DECAY, decay


def losses_of_chosen(
    loc: Tensor, logits: Tensor, loc_targets: Tensor, labels: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor]:
    """Return both losses of `multibox_loss`, given the weight `[B, P]` of each prior, which is 0 where it takes no part."""
    dtype = weight.dtype
    chosen, positive = weight != 0, labels > 0
    target = torch.where((labels > 0) & (labels < logits.shape[2]), labels, 0)
    _, cross_entropy = _lse_and_cross_entropy(torch.where(chosen[..., None], logits.to(dtype), 0), target)
    loc, loc_targets = (torch.where(positive[..., None], t.to(dtype), 0) for t in (loc, loc_targets))
    smooth_l1 = F.smooth_l1_loss(loc, loc_targets, reduction="none").sum(dim=2)
    return (weight * smooth_l1).sum(), (weight * torch.where(chosen, cross_entropy, 0)).sum()


def detected(
    loc: Tensor,
    logits: Tensor,
    priors: Tensor,
    labels: Tensor,
    counts: Tensor,
    rows: Tensor,
    *,
    variances: Sequence[float],
    clip: bool,
) -> tuple[Tensor, Tensor]:
    """Return boxes `[B, D, 4]` and scores `[B, D]` of `detect`, given the class and the prior of each detection."""
    dtype, there = compute_dtype(loc, logits, priors), _there(labels, counts)
    own_priors = _rows_of(priors.to(dtype)[None].expand(len(rows), -1, -1), rows, there)
    boxes = decode_boxes(_rows_of(loc.to(dtype), rows, there), own_priors, variances)
    if clip:
        boxes = boxes.clamp(0, 1)
    scores = _rows_of(logits.to(dtype), rows, there).softmax(dim=2).gather(2, labels[..., None])[..., 0]
    return torch.where(there[..., None], boxes, 0), torch.where(there, scores, 0)


def kept_by_class(boxes: Tensor, scores: Tensor, labels: Tensor, counts: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return boxes `[B, D, 4]` and scores `[B, D]` of `multiclass_nms`, given class and row of each detection."""
    dtype, there = compute_dtype(boxes, scores), _there(labels, counts)
    places = rows * scores.shape[2] + labels
    if boxes.dim() == 4:
        kept = _rows_of(boxes.to(dtype).flatten(1, 2), places, there)
    else:
        kept = _rows_of(boxes.to(dtype), rows, there)
    return kept, _rows_of(scores.to(dtype).flatten(1)[..., None], places, there)[..., 0]


def kept_softly(
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor,
    counts: Tensor,
    rows: Tensor,
    options: Mapping[str, Any],  # of soft_nms
) -> tuple[Tensor, Tensor]:
    """Return boxes `[B, D, 4]` and scores `[B, D]` of `soft_nms`, given class and row of each detection.

    A score is lowered by all detections of its class before it: what a class takes first has the higher final score.
    """
    kept, first_scores = kept_by_class(boxes, scores, labels, counts, rows)
    place = torch.arange(labels.shape[1], device=labels.device)
    lowers = (labels[:, :, None] == labels[:, None, :]) & (place[:, None] < place)  # [B, D, D]: d lowers e
    weights = torch.where(lowers, decay(kept, kept, **{name: options[name] for name in DECAY}), 1)
    return kept, torch.where(_there(labels, counts), first_scores * weights.prod(dim=1), 0)


def targets_of_matches(
    gt_boxes: Tensor, priors: Tensor, offsets: Tensor, gt_index: Tensor, variances: Sequence[float]
) -> Tensor:
    """Return `loc_targets [B, P, 4]` of `match_priors`, given the object of each prior."""
    dtype, found = compute_dtype(gt_boxes, priors), gt_index >= 0
    objects = offsets[:-1, None] + gt_index
    own = _rows_of(gt_boxes.to(dtype)[None].expand(len(gt_index), -1, -1), objects, found)
    unit = torch.tensor([0.0, 0.0, 1.0, 1.0], dtype=dtype, device=priors.device)
    own, priors = (torch.where(found[..., None], t, unit) for t in (own, priors.to(dtype)))
    return torch.where(found[..., None], encode_boxes(own, priors, variances), 0)


def _there(labels: Tensor, counts: Tensor) -> Tensor:
    """Return which of the padded detections there are, bool `[B, D]`."""
    return torch.arange(labels.shape[1], device=labels.device) < counts[:, None]


def _rows_of(values: Tensor, rows: Tensor, wanted: Tensor) -> Tensor:
    """Return `values[b, rows[b, d]]` `[B, D, K]`, and 0, which nothing depends on, where not `wanted`."""
    if not values.shape[1]:
        values = torch.cat([values, values.new_zeros(len(values), 1, values.shape[2])], dim=1)
    index = torch.where(wanted, rows, 0)[..., None].expand(-1, -1, values.shape[2])
    return torch.where(wanted[..., None], values.gather(1, index), 0)
