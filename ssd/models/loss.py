"""The training loss of SSD: prior matching and the MultiBox loss, each as one op on the whole batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

import ssd_ops
from ssd.models.box_loss import iou_loss
from ssd.models.heads import Outputs, rows_of
from ssd.models.iou_target import iou_target_term

if TYPE_CHECKING:
    from ssd.presets import Preset


@dataclass(frozen=True)
class MultiBoxLoss:
    """Matches priors with ground truths and computes the localization and classification losses.

    It has no parameters, priors or other state, so one object works with every model and device.

    Args:
        preset: The rules of matching and loss, and the variances of the box code.
    """

    preset: Preset

    def __call__(
        self,
        loc: Outputs,  # [B, P, 4], or [B, A * 4, H, W] for each level
        logits: Outputs,  # [B, P, C], or [B, A * C, H, W] for each level
        priors: Tensor,  # [P, 4] xyxy
        gt_boxes: Tensor | Sequence[Tensor],  # [sum G, 4] xyxy in the units of priors, or one [G_i, 4] for each image
        gt_labels: Tensor | Sequence[Tensor],  # [sum G] 1..C-1
        offsets: Tensor | None = None,  # [B + 1] int64; None with lists
        ignore: Tensor | Sequence[Tensor] | None = None,  # [sum G] bool: difficult or crowd objects
    ) -> dict[str, Tensor]:
        """Computes the two losses of a batch.

        An image without objects contributes nothing unless `min_negatives` is above 0. Half-precision loc and logits are
        computed in float32.

        Returns:
            {"loc": scalar, "cls": scalar}; the training loss is their sum.
        """
        return self.losses(loc, logits, self.match(priors, gt_boxes, gt_labels, offsets, ignore), priors)

    def match(
        self,
        priors: Tensor,  # [P, 4] xyxy
        gt_boxes: Tensor | Sequence[Tensor],
        gt_labels: Tensor | Sequence[Tensor],
        offsets: Tensor | None = None,
        ignore: Tensor | Sequence[Tensor] | None = None,
    ) -> ssd_ops.PriorMatches:
        """Assigns ground truths to priors, which does not depend on predictions; arguments as above."""
        return ssd_ops.match_priors(
            gt_boxes,
            gt_labels,
            priors,
            offsets=offsets,
            ignore=ignore,
            iou_threshold=self.preset.match_iou_threshold,
            rule=self.preset.rule,
            match_equal=self.preset.match_equal,
            variances=self.preset.variances,
        )

    def check_trainable(self) -> None:
        """Raises ValueError if the scores are not those of a softmax, whose cross entropy the loss is."""
        if self.preset.scores != "softmax":
            raise ValueError(
                f"training needs scores='softmax', got {self.preset.scores!r}: the loss is the cross entropy of all "
                "classes; build the model with scores='softmax' (--model-option scores=softmax)"
            )

    def losses(self, loc: Outputs, logits: Outputs, matches: ssd_ops.PriorMatches, priors: Tensor) -> dict[str, Tensor]:
        """Computes the two losses from loc and logits in either form, the matches and the priors [P, 4]."""
        self.check_trainable()
        loc_loss, cls_loss = ssd_ops.multibox_loss(
            loc,
            logits,
            matches.loc_targets,
            matches.labels,
            neg_pos_ratio=self.preset.neg_pos_ratio,
            normalizer=self.preset.normalizer,
            min_negatives=self.preset.min_negatives,
            mining=self.preset.mining,
        )
        shared = (priors, matches, self.preset.variances, self.preset.normalizer)
        if self.preset.box_loss != "smooth_l1":
            loc_loss = iou_loss(self.preset.box_loss, rows_of(loc, 4), *shared)
        if self.preset.class_target == "iou":
            cls_loss = cls_loss + iou_target_term(loc, logits, *shared)
        return {"loc": loc_loss * self.preset.loc_weight, "cls": cls_loss}
