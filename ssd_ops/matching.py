"""Which prior learns which ground truth."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ssd_ops import checks
from ssd_ops._autograd import call
from ssd_ops.dtypes import floating
from ssd_ops.packing import pack_ground_truths
from ssd_ops.results import PriorMatches


def match_priors(
    gt_boxes: Tensor | Sequence[Tensor],
    gt_labels: Tensor | Sequence[Tensor],
    priors: Tensor,
    *,
    offsets: Tensor | None = None,
    ignore: Tensor | Sequence[Tensor] | None = None,
    iou_threshold: float = 0.5,
    rule: str = "greedy",
    match_equal: bool = True,
    variances: Sequence[float] = (0.1, 0.2),
) -> PriorMatches:
    """Match the priors of every image with its ground truths and encode the boxes that they learn, in one pass.

    A prior learns the object that it overlaps most (the lowest one of equals) if their IoU reaches the threshold.
    Before that, each object may claim a prior of its own:

    * `greedy` (Caffe): the pair with the highest IoU is matched and both leave the pool, again and again while a pair
      overlaps; of equal pairs the lowest prior comes first, then the lowest object. Every object that overlaps a prior
      which no better pair takes keeps one.
    * `last` (amdegroot, torchvision): each object claims the prior that it overlaps most (the lowest one of equals); of
      several objects with one prior the last gets it.
    * `none`: no claims.

    An object that overlaps no prior (no area, inverted, NaN, inf, outside) is matched with none. An image without
    objects is all background. No `[G, P]` matrix is made.

    Args:
        gt_boxes: A list with one `[G_i, 4]` an image, or one packed tensor `[sum G, 4]` with `offsets`; xyxy in the
            unit of the priors.
        gt_labels: A list of `[G_i]`, or packed `[sum G]`, int64, 1 or more (0 is the background).
        priors: `[P, 4]`, xyxy.
        offsets: int64 `[B + 1]`: image b has the ground truths `offsets[b] .. offsets[b + 1] - 1`.
        ignore: A list of bool `[G_i]`, or packed `[sum G]`: difficult or crowd objects. They are matched with no prior,
            and a prior that reaches the threshold with one of them and learns no other takes no part (label -1).
        iou_threshold: A number above 0; above 1 only claims match.
        rule: `greedy`, `last` or `none`.
        match_equal: Whether a prior whose IoU equals `iou_threshold` is positive, too (compared in float64, not rounded).
        variances: `(center, size)` or four numbers, for the encoding (`center_size`).

    Returns:
        `PriorMatches(labels, gt_index, loc_targets)`: int64 `[B, P]`, the label of the object, 0 background, -1 takes
        no part; int64 `[B, P]`, the number of the object in its image, -1 none; `[B, P, 4]`, its encoded box, 0 where
        none.

    Raises:
        RuntimeError: A shape, dtype, device, length or option does not fit. Values of `offsets` and `gt_labels` are
            looked at on the CPU only, because looking on a GPU would make the host wait; there, offsets are cut to
            `0 .. sum G` and one that falls is raised to the highest before it, and labels are copied as they are.

    Source: `MatchBBox` of Caffe SSD; `SSDMatcher` of torchvision.
    """
    priors = floating("priors", priors)
    boxes, labels, offsets, flags = pack_ground_truths(gt_boxes, gt_labels, offsets, ignore)
    if not isinstance(gt_boxes, Tensor) and boxes.device != priors.device and boxes.numel() == 0:
        # A list of empty tensors says nothing of the device.
        boxes, labels, offsets = boxes.to(priors.device), labels.to(priors.device), offsets.to(priors.device)
        flags = None if flags is None else flags.to(priors.device)
    values = checks.four_variances(variances)
    threshold, equal = checks.real("iou_threshold", iou_threshold), checks.boolean("match_equal", match_equal)
    return PriorMatches(*call("match_priors", boxes, labels, offsets, flags, priors, threshold, rule, equal, values))
