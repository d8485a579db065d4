"""Assignment of priors to ground truths."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ssd_ops import checks
from ssd_ops._autograd import call
from ssd_ops.dtypes import floating
from ssd_ops.packing import pack_ground_truths
from ssd_ops.results import PriorMatches


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
    """Matches the priors of every image with its ground truths and encodes the assigned boxes, in one pass.

    A prior is assigned to the ground truth that it overlaps most (ties go to the lowest one) if their IoU reaches the
    threshold. Before that, `rule` may give a ground truth a prior of its own, whatever their IoU:

    * `greedy` (Caffe): the pair with the highest IoU is matched and both are removed, repeatedly while a pair overlaps;
      ties go to the lowest prior, then to the lowest ground truth. So every ground truth gets a prior, unless all priors
      that it overlaps are matched in better pairs.
    * `last` (amdegroot, torchvision): each ground truth gets the prior that it overlaps most (ties go to the lowest
      prior); if several have the same prior, the last one gets it.
    * `none`: no ground truth has a prior of its own.

    A ground truth that overlaps no prior (no area, inverted, NaN, inf, outside) is assigned to none. An image without
    ground truths is all background. No `[G, P]` matrix is allocated.

    Args:
        gt_boxes: A list with one `[G_i, 4]` per image, or one packed tensor `[sum G, 4]` with `offsets`; xyxy in the
            unit of the priors.
        gt_labels: A list of `[G_i]`, or packed `[sum G]`, int64, 1 or more (0 is the background).
        priors: `[P, 4]`, xyxy.
        offsets: int64 `[B + 1]`: image b has the ground truths `offsets[b] .. offsets[b + 1] - 1`.
        ignore: A list of bool `[G_i]`, or packed `[sum G]`: difficult or crowd objects. No prior is assigned to them, and
            a prior that reaches the threshold with one of them and with no other ground truth is ignored (label -1).
        iou_threshold: Above 0; above 1, only `rule` assigns priors.
        rule: `greedy`, `last` or `none`.
        match_equal: Whether a prior whose IoU equals `iou_threshold` is positive, too (compared in float64, not rounded).
        variances: `(center, size)` or four numbers, for the encoding (`center_size`).

    Returns:
        `PriorMatches(labels, gt_index, loc_targets)`: int64 `[B, P]`, the label of the ground truth, 0 background, -1
        ignored; int64 `[B, P]`, the index of the ground truth in its image, -1 without one; `[B, P, 4]`, its encoded box,
        0 without one.

    Raises:
        RuntimeError: Invalid shape, dtype, device, length or option. Values of `offsets` and `gt_labels` are validated on
            the CPU only, because that would synchronize with a GPU; there, offsets are clamped to `0 .. sum G`, one that
            decreases is raised to the maximum before it, and labels are copied as they are.

    Source: `MatchBBox` of Caffe SSD; `SSDMatcher` of torchvision.
    """
    priors = floating("priors", priors)
    boxes, labels, offsets, ignore = pack_ground_truths(gt_boxes, gt_labels, offsets, ignore)
    if not isinstance(gt_boxes, Tensor) and boxes.device != priors.device and boxes.numel() == 0:
        # Empty tensors in a list are often created on the CPU.
        boxes, labels, offsets = boxes.to(priors.device), labels.to(priors.device), offsets.to(priors.device)
        ignore = None if ignore is None else ignore.to(priors.device)
    values = checks.four_variances(variances)
    threshold, equal = checks.real("iou_threshold", iou_threshold), checks.boolean("match_equal", match_equal)
    return PriorMatches(*call("match_priors", boxes, labels, offsets, ignore, priors, threshold, rule, equal, values))
