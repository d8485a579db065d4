"""Assignment of priors to ground truths, and the encoded boxes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ssd_ops import checks
from ssd_ops.dtypes import compute_dtype, floating
from ssd_ops.packing import pack_ground_truths
from ssd_ops.reference.arithmetic import passes
from ssd_ops.reference.codec import encode_boxes
from ssd_ops.reference.overlap import box_iou
from ssd_ops.results import PriorMatches

RULES = ("greedy", "last", "none")


def match_priors(
    gt_boxes: Tensor | Sequence[Tensor],  # [sum G, 4] xyxy, or one [G_i, 4] per image
    gt_labels: Tensor | Sequence[Tensor],  # [sum G] int64, or one [G_i] per image
    priors: Tensor,  # [P, 4] xyxy
    *,
    offsets: Tensor | None = None,  # [B + 1] int64
    ignore: Tensor | Sequence[Tensor] | None = None,  # [sum G] bool, or one [G_i] per image
    iou_threshold: float = 0.5,
    rule: str = "greedy",
    match_equal: bool = True,
    variances: Sequence[float] = (0.1, 0.2),
) -> PriorMatches:
    """Matches and encodes image by image; see `ssd_ops.match_priors`."""
    priors = floating("priors", priors)
    boxes, labels, offsets, ignore = pack_ground_truths(gt_boxes, gt_labels, offsets, ignore)
    values = checks.four_variances(variances)
    check(boxes, labels, offsets, ignore, priors, iou_threshold, rule, match_equal, values)
    dtype = compute_dtype(boxes, priors)
    boxes, priors = boxes.to(dtype), priors.to(dtype)
    if ignore is None:
        ignore = torch.zeros_like(labels, dtype=torch.bool)
    shape = (len(offsets) - 1, len(priors))  # num_images, num_priors
    result = PriorMatches(labels.new_zeros(shape), labels.new_full(shape, -1), priors.new_zeros(*shape, 4))
    bounds = offsets.tolist()
    for b, (begin, end) in enumerate(zip(bounds, bounds[1:], strict=False)):
        iou = box_iou(boxes[begin:end], priors).nan_to_num(0)  # [G, P]; NaN overlaps nothing
        ignored = ignore[begin:end]  # [G]
        gt = _match_image(iou.masked_fill(ignored[:, None], 0), iou_threshold, rule, match_equal)  # [P]
        positive = gt >= 0
        result.gt_index[b] = gt
        result.labels[b, positive] = labels[begin:end][gt[positive]]
        result.loc_targets[b, positive] = encode_boxes(boxes[begin:end][gt[positive]], priors[positive], values)
        overlaps_ignored = passes(iou[ignored], iou_threshold, match_equal).any(dim=0)
        result.labels[b, overlaps_ignored & ~positive] = -1
    return result


def _match_image(iou: Tensor, threshold: float, rule: str, match_equal: bool) -> Tensor:
    """Returns for each prior the assigned ground truth `[P]`, -1 for none; `iou` is `[G, P]`."""
    if iou.numel() == 0:
        return torch.full((iou.shape[1],), -1, dtype=torch.int64, device=iou.device)
    best, gt_index = lowest_argmax(iou.T)  # over ground truths: [P]
    gt_index[~passes(best, threshold, match_equal)] = -1
    if rule == "last":
        best, best_prior = lowest_argmax(iou)  # over priors: [G]
        for gt in range(len(iou)):
            if best[gt] > 0:
                gt_index[best_prior[gt]] = gt  # a later ground truth displaces an earlier one
    elif rule == "greedy":
        for gt, prior in _greedy_pairs(iou.clone()):
            gt_index[prior] = gt
    return gt_index


def lowest_argmax(values: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the maximum of each row and the lowest column that has it."""
    best = values.max(dim=1).values
    columns = torch.arange(values.shape[1], device=values.device)
    index = torch.where(values == best[:, None], columns, values.shape[1]).min(dim=1).values
    return best, index


def _greedy_pairs(iou: Tensor) -> list[tuple[int, int]]:
    """Returns Caffe's pairs (ground truth, prior): repeatedly the pair with the highest IoU of which neither is matched.

    Ties go to the lowest prior, then to the lowest ground truth.
    """
    pairs = []
    for _ in range(min(iou.shape)):
        by_prior = iou.T.flatten()  # index = prior * G + ground truth
        best, index = lowest_argmax(by_prior[None])
        if not best.item() > 0:
            break
        prior, gt = divmod(int(index), len(iou))
        pairs.append((gt, prior))
        iou[gt], iou[:, prior] = -1, -1
    return pairs


def check(
    gt_boxes: Tensor,  # [sum G, 4] xyxy
    gt_labels: Tensor,  # [sum G] int64
    offsets: Tensor,  # [B + 1] int64
    ignore: Tensor | None,  # [sum G] bool
    priors: Tensor,  # [P, 4] xyxy
    iou_threshold: float,
    rule: str,
    match_equal: bool,
    variances: Sequence[float],
) -> None:
    """Validates the arguments of the op."""
    checks.boxes("gt_boxes", gt_boxes, "[sum G, 4]", 2)
    total = gt_boxes.shape[0]
    checks.as_many("gt_labels", gt_labels, total)
    checks.int64("gt_labels", gt_labels)
    checks.same_device("gt_labels", gt_labels, "gt_boxes", gt_boxes)
    checks.same_device("offsets", offsets, "gt_boxes", gt_boxes)
    checks.offsets(offsets, total)
    if ignore is not None:
        checks.as_many("ignore", ignore, total)
        if ignore.dtype != torch.bool:
            checks.fail(f"ignore must be bool, got {checks.dtype_name(ignore.dtype)}")
        checks.same_device("ignore", ignore, "gt_boxes", gt_boxes)
    checks.boxes("priors", priors, "[P, 4]", 2)
    checks.same_device("priors", priors, "gt_boxes", gt_boxes)
    checks.positive("iou_threshold", iou_threshold)
    checks.one_of("rule", rule, RULES)
    checks.boolean("match_equal", match_equal)
    checks.variances(variances)
    checks.label_range("gt_labels", gt_labels, 1, None)
