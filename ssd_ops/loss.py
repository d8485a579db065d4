"""The training loss of SSD in one op."""

from __future__ import annotations

from torch import Tensor

from ssd_ops import checks
from ssd_ops._autograd import call
from ssd_ops.dtypes import floating


def multibox_loss(
    loc: Tensor,
    logits: Tensor,
    loc_targets: Tensor,
    labels: Tensor,
    *,
    neg_pos_ratio: float = 3.0,
    normalizer: str = "batch",
    min_negatives: int = 0,
    mining: str = "image",
) -> tuple[Tensor, Tensor]:
    """Return smooth L1 over the positives and cross entropy over positives and mined hard negatives.

    Of each image's background priors those with the highest cross entropy take part, `neg_pos_ratio` for each positive
    but at least `min_negatives`, as far as there are any; of equal ones the lowest prior comes first, NaN counts as the
    highest. With `mining="batch"` the batch is mined as if it were one image: `neg_pos_ratio` for each of its positives,
    at least `min_negatives` times the number of images, wherever they are hardest; of equal ones the lowest image, then
    the lowest prior comes first. A positive counts once. Sums run in float64 and in a fixed order: the result is
    deterministic.
    A batch of no images, or of images with nothing to learn, gives 0. A prior that takes part with NaN, with inf as its
    target's logit or with nothing but -inf makes `cls_loss` NaN; those that take no part get a gradient of exactly 0.
    Derivatives of every order leave out how mining would change.

    Args:
        loc: `[B, P, 4]`, predicted deltas; any floating dtype, computed in float32 (float64 where an input is).
        logits: `[B, P, C]`, class 0 is the background; any floating dtype.
        loc_targets: `[B, P, 4]`, the deltas to learn (of positives only).
        labels: int64 `[B, P]`: 1 .. C - 1 positive, 0 background, -1 takes no part.
        neg_pos_ratio: 0 or more.
        normalizer: `batch` divides by the positives of the batch, at least 1; `image` divides each image's losses by its
            positives, at least 1, and takes the mean over images (not with `mining="batch"`, whose negatives belong to no
            image's positives); `batch_size` divides by the number of images.
        min_negatives: 0 or more, for each image; gives images without objects something to learn from.
        mining: `image` or `batch`: among which priors the hardest negatives are looked for.

    Returns:
        `(loc_loss, cls_loss)`, two scalars, differentiable for `loc`, `logits` and `loc_targets`.

    Raises:
        RuntimeError: A shape, dtype, device or option does not fit, or (on the CPU; on a GPU the loss becomes NaN, because
            looking would make the host wait) a label is out of range.

    Source: `MultiBoxLoss` of Caffe SSD and of torchvision (without its double count of positives); mining over the batch
    and division by its size as in balancap's SSD-Tensorflow.
    """
    checks.tensor("labels", labels)
    loc_loss, cls_loss, _, _ = call(
        "multibox_loss",
        floating("loc", loc),
        floating("logits", logits),
        floating("loc_targets", loc_targets),
        labels,
        checks.real("neg_pos_ratio", neg_pos_ratio),
        normalizer,
        checks.integer("min_negatives", min_negatives),
        mining,
    )
    return loc_loss, cls_loss
