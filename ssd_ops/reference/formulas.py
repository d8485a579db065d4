"""Differentiable formulas of the ops that select: results as functions of the inputs, given the selection.

An op selects (which boxes are kept, which priors are sampled) and computes. The selection has no derivative; each function
here repeats what is computed from the selected inputs, so that it can be differentiated in every mode, any number of times.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ssd_ops.dtypes import compute_dtype
from ssd_ops.reference.codec import decode_boxes, encode_boxes
from ssd_ops.reference.loss import cross_entropies
from ssd_ops.reference.soft_suppression import DECAY, decay
from ssd_ops.sizes import may_hold


def multibox_loss(
    loc: Tensor,  # [B, P, 4] deltas
    logits: Tensor,  # [B, P, C]
    loc_targets: Tensor,  # [B, P, 4]
    labels: Tensor,  # [B, P] int64
    weight: Tensor,  # [B, P]
) -> tuple[Tensor, Tensor]:
    """Returns both losses of `multibox_loss`, given the weight of each prior, which is 0 where it is not sampled."""
    dtype = weight.dtype
    sampled, positive = weight != 0, labels > 0
    target = torch.where((labels > 0) & (labels < logits.shape[2]), labels, 0)
    cross_entropy = cross_entropies(torch.where(sampled[..., None], logits.to(dtype), 0), target)
    loc, loc_targets = (torch.where(positive[..., None], t.to(dtype), 0) for t in (loc, loc_targets))
    smooth_l1 = F.smooth_l1_loss(loc, loc_targets, reduction="none").sum(dim=2)
    return (weight * smooth_l1).sum(), (weight * torch.where(sampled, cross_entropy, 0)).sum()


def detect(
    loc: Tensor,  # [B, P, 4] deltas
    logits: Tensor,  # [B, P, C]
    priors: Tensor,  # [P, 4] xyxy
    labels: Tensor,  # [B, D] int64
    counts: Tensor,  # [B] int64
    box_indices: Tensor,  # [B, D] int64
    *,
    variances: Sequence[float],
    clip: bool,
) -> tuple[Tensor, Tensor]:
    """Returns boxes `[B, D, 4]` and scores `[B, D]` of `detect`, given the class and the prior of each detection."""
    dtype, valid = compute_dtype(loc, logits, priors), _is_detection(labels, counts)
    own_priors = _rows_of(priors.to(dtype)[None].expand(box_indices.shape[0], -1, -1), box_indices, valid)
    boxes = decode_boxes(_rows_of(loc.to(dtype), box_indices, valid), own_priors, variances)
    if clip:
        boxes = boxes.clamp(0, 1)
    scores = _rows_of(logits.to(dtype), box_indices, valid).softmax(dim=2).gather(2, labels[..., None])[..., 0]
    return torch.where(valid[..., None], boxes, 0), torch.where(valid, scores, 0)


def multiclass_nms(
    boxes: Tensor,  # [B, N, 4] or [B, N, C, 4] xyxy
    scores: Tensor,  # [B, N, C]
    labels: Tensor,  # [B, D] int64
    counts: Tensor,  # [B] int64
    box_indices: Tensor,  # [B, D] int64
) -> tuple[Tensor, Tensor]:
    """Returns boxes `[B, D, 4]` and scores `[B, D]` of `multiclass_nms`, given class and box of each detection."""
    dtype, valid = compute_dtype(boxes, scores), _is_detection(labels, counts)
    flat_indices = box_indices * scores.shape[2] + labels
    if boxes.dim() == 4:
        kept = _rows_of(boxes.to(dtype).flatten(1, 2), flat_indices, valid)
    else:
        kept = _rows_of(boxes.to(dtype), box_indices, valid)
    return kept, _rows_of(scores.to(dtype).flatten(1)[..., None], flat_indices, valid)[..., 0]


def soft_nms(
    boxes: Tensor,  # [B, N, 4] or [B, N, C, 4] xyxy
    scores: Tensor,  # [B, N, C]
    labels: Tensor,  # [B, D] int64
    counts: Tensor,  # [B] int64
    box_indices: Tensor,  # [B, D] int64
    options: Mapping[str, Any],  # of soft_nms
) -> tuple[Tensor, Tensor]:
    """Returns boxes `[B, D, 4]` and scores `[B, D]` of `soft_nms`, given class and box of each detection.

    A score is decayed by all preceding detections of its class: those that are selected first have higher final scores.
    """
    kept, first_scores = multiclass_nms(boxes, scores, labels, counts, box_indices)
    order = torch.arange(labels.shape[1], device=labels.device)
    decays = (labels[:, :, None] == labels[:, None, :]) & (order[:, None] < order)  # [B, D, D]: d decays the score of e
    weights = torch.where(decays, decay(kept, kept, **{name: options[name] for name in DECAY}), 1)
    return kept, torch.where(_is_detection(labels, counts), first_scores * weights.prod(dim=1), 0)


def match_priors(
    gt_boxes: Tensor,  # [sum G, 4] xyxy
    priors: Tensor,  # [P, 4] xyxy
    offsets: Tensor,  # [B + 1] int64
    gt_index: Tensor,  # [B, P] int64
    variances: Sequence[float],
) -> Tensor:
    """Returns `loc_targets [B, P, 4]` of `match_priors`, given the ground truth of each prior."""
    dtype, positive = compute_dtype(gt_boxes, priors), gt_index >= 0
    packed_gt = offsets[:-1, None] + gt_index
    boxes = _rows_of(gt_boxes.to(dtype)[None].expand(gt_index.shape[0], -1, -1), packed_gt, positive)
    unit = torch.tensor([0.0, 0.0, 1.0, 1.0], dtype=dtype, device=priors.device)
    boxes, priors = (torch.where(positive[..., None], t, unit) for t in (boxes, priors.to(dtype)))
    return torch.where(positive[..., None], encode_boxes(boxes, priors, variances), 0)


def _is_detection(labels: Tensor, counts: Tensor) -> Tensor:
    """Returns which detections are not padding, bool `[B, D]`."""
    return torch.arange(labels.shape[1], device=labels.device) < counts[:, None]


def _rows_of(values: Tensor, rows: Tensor, valid: Tensor) -> Tensor:
    """Returns `values[b, rows[b, d]]` `[B, D, K]`, and 0 without a gradient where not `valid`."""
    if may_hold(values.shape[1] == 0):
        values = torch.cat([values, values.new_zeros(values.shape[0], 1, values.shape[2])], dim=1)
    index = torch.where(valid, rows, 0)[..., None].expand(-1, -1, values.shape[2])
    return torch.where(valid[..., None], values.gather(1, index), 0)
