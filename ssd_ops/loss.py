"""The training loss of SSD, in one op."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ssd_ops import checks
from ssd_ops._autograd import call
from ssd_ops._levels import op_and_outputs
from ssd_ops.dtypes import floating


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
) -> tuple[Tensor, Tensor]:
    """Returns smooth L1 of the positives, and cross entropy of positives and mined hard negatives.

    In each image, the background priors with the highest cross entropy are sampled: `neg_pos_ratio` for each positive
    and at least `min_negatives`, as far as there are any; ties go to the lowest prior, and NaN counts as the highest. With
    `mining="batch"` the batch is mined as if it were one image: `neg_pos_ratio` for each of its positives, at least
    `min_negatives` times the number of images; ties go to the lowest image, then to the lowest prior. A positive counts
    once. Sums are accumulated in float64 and in a fixed order: the result is deterministic.

    An empty batch, or one in which nothing is sampled, gives 0. `cls_loss` is NaN if a sampled prior has a NaN logit, an
    infinite target logit, or only -inf logits; priors that are not sampled get a gradient of exactly 0. The sampling has
    no derivative of any order.

    Args:
        loc: `[B, P, 4]`, predicted deltas; any floating dtype, computed in float32 (float64 where an input is). Or a list
            of the outputs of each feature level as a convolution leaves them, `[B, A * 4, H, W]`, whose priors are ordered
            by level, row, column and then A: equal results without concatenating them. In channels_last they are read
            in place, otherwise copied; their gradients are in channels_last.
        logits: `[B, P, C]`, class 0 is the background; any floating dtype. Or a list of `[B, A * C, H, W]`, where `loc` is
            a list.
        loc_targets: `[B, P, 4]`, the target deltas (only those of positives are used).
        labels: int64 `[B, P]`: 1 .. C - 1 positive, 0 background, -1 ignored.
        neg_pos_ratio: 0 or more.
        normalizer: `batch` divides by the positives of the batch, at least 1; `image` divides each image's losses by its
            positives, at least 1, and takes the mean over images (not with `mining="batch"`, whose negatives belong to no
            image's positives); `batch_size` divides by the number of images.
        min_negatives: 0 or more, for each image; lets images without objects contribute to the loss.
        mining: `image` or `batch`: where the hardest negatives are searched for.

    Returns:
        `(loc_loss, cls_loss)`, two scalars, differentiable for `loc`, `logits` and `loc_targets`.

    Raises:
        RuntimeError: Invalid shape, dtype, device or option; or a label out of range (on the CPU only, because validating
            values would synchronize with a GPU: there, the losses become NaN).

    Source: `MultiBoxLoss` of Caffe SSD and of torchvision (without its double count of positives); mining over the batch
    and division by its size as in balancap's SSD-Tensorflow.
    """
    checks.tensor("labels", labels)
    name, loc, logits = op_and_outputs("multibox_loss", loc, logits)
    loc_loss, cls_loss, _ = call(
        name,
        loc,
        logits,
        floating("loc_targets", loc_targets),
        labels,
        checks.real("neg_pos_ratio", neg_pos_ratio),
        normalizer,
        checks.integer("min_negatives", min_negatives),
        mining,
    )
    return loc_loss, cls_loss
