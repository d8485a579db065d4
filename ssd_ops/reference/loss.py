"""The SSD training loss: smooth L1 for boxes, cross entropy with hard negative mining for classes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ssd_ops import checks
from ssd_ops.dtypes import compute_dtype, floating
from ssd_ops.reference.levels import check_rows, levels_of_rows, rows_of_levels, rows_of_outputs
from ssd_ops.reference.outputs import returns
from ssd_ops.sizes import same_sizes

NORMALIZERS = ("batch", "image", "batch_size")
MINING = ("image", "batch")


def _both_losses(outputs: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    return outputs[:2]


@returns(_both_losses)
def multibox_loss(
    loc: Tensor | Sequence[Tensor],  # [B, P, 4] deltas, or for each level [B, A * 4, H, W]
    logits: Tensor | Sequence[Tensor],  # [B, P, C], or for each level [B, A * C, H, W]
    loc_targets: Tensor,  # [B, P, 4]
    labels: Tensor,  # [B, P] int64
    *,
    neg_pos_ratio: float = 3.0,
    normalizer: str = "batch",
    min_negatives: int = 0,
    mining: str = "image",
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the loss of boxes and the loss of classes, two scalars; see `ssd_ops.multibox_loss`.

    The outputs also contain what the gradient needs of each prior: `weight [B, P]`, its factor in the loss, which is 1 over
    the divisor for positives and mined negatives, else 0.
    A row of logits with NaN, with inf at its target, or with nothing but -inf has a cross entropy of NaN; inf elsewhere
    gives inf. A label out of range (not validated on a GPU) makes both losses NaN.
    """
    loc, logits = rows_of_outputs(loc, logits)
    loc_targets = floating("loc_targets", loc_targets)
    checks.tensor("labels", labels)
    check(loc, logits, loc_targets, labels, neg_pos_ratio, normalizer, min_negatives, mining)
    dtype = compute_dtype(loc, logits, loc_targets)
    logits, loc, loc_targets = logits.to(dtype), loc.to(dtype), loc_targets.to(dtype)
    in_range = (labels >= -1) & (labels < logits.shape[2])
    target = torch.where(in_range, labels, 0).clamp(min=0)
    with torch.no_grad():
        cross_entropy = cross_entropies(logits, target)  # [B, P]
    positive = labels > 0
    positives = positive.sum(dim=1)  # [B]
    if mining == "image":
        negative = hardest_negatives(cross_entropy, labels, positives, neg_pos_ratio, min_negatives)
    else:  # the batch as if it were one image
        minimum = min(min_negatives, labels.shape[1]) * len(labels)
        rows, row_labels = cross_entropy.reshape(1, -1), labels.reshape(1, -1)
        negative = hardest_negatives(rows, row_labels, positives.sum()[None], neg_pos_ratio, minimum).view_as(labels)
    sampled = positive | negative
    divisor = _divisor(positives, normalizer).to(dtype)
    weight = sampled / divisor[:, None]  # [B, P]

    # Priors that are not sampled are replaced before differentiation: their gradient is 0, whatever their values.
    cross_entropy = cross_entropies(torch.where(sampled[..., None], logits, 0), target)
    loc, loc_targets = (torch.where(positive[..., None], t, 0) for t in (loc, loc_targets))
    # Sums of each image are accumulated in float64, so that the order of priors does not change the result.
    loc_sums = F.smooth_l1_loss(loc, loc_targets, reduction="none").double().sum(dim=(1, 2))
    cls_sums = torch.where(sampled, cross_entropy.double(), 0).sum(dim=1)
    invalid = ~in_range.all()
    loc_loss = (loc_sums / divisor).sum().to(dtype).masked_fill(invalid, torch.nan)
    cls_loss = (cls_sums / divisor).sum().to(dtype).masked_fill(invalid, torch.nan)
    return loc_loss, cls_loss, weight


def _log_sums(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the log of the sum of exp(logit - shift) and the shift of each row, `[B, P]` both.

    The shift is the maximum logit, or 0 if that is infinite.
    """
    highest = logits.detach().amax(dim=2)
    shift = torch.where(highest.isinf(), 0, highest)
    return torch.exp(logits - shift[..., None]).sum(dim=2).log(), shift


def cross_entropies(logits: Tensor, target: Tensor) -> Tensor:
    """Returns the cross entropy of each row, `[B, P]`.

    Both of its terms are relative to the row's maximum logit: the loss of a confident, correct row is not rounded away,
    and no cross entropy is below 0.
    """
    log_sum, shift = _log_sums(logits)
    return log_sum - (logits.gather(2, target[..., None])[..., 0] - shift)


def _divisor(positives: Tensor, normalizer: str) -> Tensor:
    """Returns the divisor of each image's losses, `[B]`; `positives` is `[B]`."""
    num_images = len(positives)
    if normalizer == "batch":
        return positives.sum().clamp(min=1).expand(num_images)
    if normalizer == "image":
        return positives.clamp(min=1) * num_images
    return torch.full_like(positives, num_images)


def hardest_negatives(
    cross_entropy: Tensor,  # [B, P]
    labels: Tensor,  # [B, P] int64
    positives: Tensor,  # [B]
    neg_pos_ratio: float,
    min_negatives: int,
) -> Tensor:
    """Returns the mask `[B, P]` of the sampled background priors: those with the highest cross entropy.

    Each row gets `max(neg_pos_ratio * positives, min_negatives)` of them, as far as it has background priors. Ties go to
    the lowest prior; NaN counts as the highest. A ratio of infinity samples all of them in images with an object.
    """
    num_priors = labels.shape[1]
    k = (neg_pos_ratio * positives.double()).nan_to_num(0).clamp(max=num_priors).long().clamp(min=min_negatives)
    score = torch.where(labels == 0, cross_entropy, -torch.inf)
    order = score.sort(dim=1, descending=True, stable=True).indices
    rank = torch.empty_like(order).scatter_(1, order, torch.arange(num_priors, device=order.device).expand_as(order))
    return (rank < k[:, None]) & (labels == 0)


def grad_multibox_loss(
    grad_loc_loss: Tensor,  # scalar
    grad_cls_loss: Tensor,  # scalar
    loc: Tensor,  # [B, P, 4] deltas
    logits: Tensor,  # [B, P, C]
    loc_targets: Tensor,  # [B, P, 4]
    labels: Tensor,  # [B, P] int64
    weight: Tensor,  # [B, P]
) -> tuple[Tensor, Tensor]:
    """Returns the gradients of both losses for `loc` and `logits`, in their dtypes.

    The gradient of a prior without weight is 0, whatever its logits and the incoming gradient are, and so is that of one
    whose weight times the incoming gradient is 0.
    """
    dtype = weight.dtype
    log_sum, shift = _log_sums(logits.to(dtype))
    lse = (log_sum + shift)[..., None]
    target = (torch.arange(logits.shape[2], device=labels.device) == labels[..., None]).to(dtype)
    per_prior = torch.where(weight == 0, 0, weight * grad_cls_loss)[..., None]
    grad_logits = torch.where(per_prior == 0, 0, per_prior * (torch.exp(logits.to(dtype) - lse) - target))
    slope = (loc.to(dtype) - loc_targets.to(dtype)).clamp(-1, 1)
    is_positive = (labels > 0)[..., None]
    grad_loc = torch.where(is_positive, (weight * grad_loc_loss)[..., None] * slope, 0)
    return grad_loc.to(loc.dtype), grad_logits.to(logits.dtype)


def grad_multibox_loss_levels(
    grad_loc_loss: Tensor,  # scalar
    grad_cls_loss: Tensor,  # scalar
    loc: Sequence[Tensor],  # for each level [B, A * 4, H, W]
    logits: Sequence[Tensor],  # for each level [B, A * C, H, W]
    loc_targets: Tensor,  # [B, P, 4]
    labels: Tensor,  # [B, P] int64
    weight: Tensor,  # [B, P]
) -> tuple[list[Tensor], list[Tensor]]:
    """Returns the gradients of both losses for `loc` and `logits`, in their shapes and dtypes and in channels_last."""
    rows = rows_of_levels(loc, logits)
    grad_loc, grad_logits = grad_multibox_loss(grad_loc_loss, grad_cls_loss, *rows, loc_targets, labels, weight)
    return levels_of_rows(grad_loc, loc), levels_of_rows(grad_logits, logits)


def check(
    loc: Tensor,  # [B, P, 4] deltas
    logits: Tensor,  # [B, P, C]
    loc_targets: Tensor,  # [B, P, 4]
    labels: Tensor,  # [B, P] int64
    neg_pos_ratio: float,
    normalizer: str,
    min_negatives: int,
    mining: str,
) -> None:
    """Validates the arguments of `multibox_loss`."""
    check_rows(loc, logits)
    num_images, num_priors = loc.shape[:2]
    checks.shape(
        "loc_targets", loc_targets, f"[{num_images}, {num_priors}, 4]", same_sizes(loc_targets.shape, loc.shape)
    )
    checks.floating("loc_targets", loc_targets)
    checks.shape("labels", labels, f"[{num_images}, {num_priors}]", same_sizes(labels.shape, loc.shape[:2]))
    checks.int64("labels", labels)
    for name, tensor in (("logits", logits), ("loc_targets", loc_targets), ("labels", labels)):
        checks.same_device(name, tensor, "loc", loc)
    checks.not_negative("neg_pos_ratio", neg_pos_ratio)
    checks.one_of("normalizer", normalizer, NORMALIZERS)
    checks.not_negative("min_negatives", checks.integer("min_negatives", min_negatives))
    checks.one_of("mining", mining, MINING)
    if mining == "batch" and normalizer == "image":
        checks.fail("normalizer must be batch or batch_size where mining is batch, got image")
    checks.label_range("labels", labels, -1, logits.shape[2])
