"""What the ops return: named tuples of tensors."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Detections(NamedTuple):
    """The detections of a batch, by descending score, padded to the same number for every image."""

    boxes: Tensor
    """`[B, D, 4]`, xyxy; zero-padded."""
    scores: Tensor
    """`[B, D]`; zero-padded."""
    labels: Tensor
    """int64 `[B, D]`; padded with 0, the background."""
    counts: Tensor
    """int64 `[B]`: number of detections of each image."""


class SoftDetections(NamedTuple):
    """The detections of a batch, as `Detections`, and where they came from; without `B` for a single set of boxes."""

    boxes: Tensor
    """`[B, D, 4]`, xyxy; zero-padded."""
    scores: Tensor
    """`[B, D]`, decayed; zero-padded."""
    labels: Tensor
    """int64 `[B, D]`; padded with 0, the background."""
    counts: Tensor
    """int64 `[B]`: number of detections of each image."""
    indices: Tensor
    """int64 `[B, D]`: `indices[b, d] = n` means that detection d of image b is its box n; padded with -1."""


class PriorMatches(NamedTuple):
    """What every prior of every image is assigned to."""

    labels: Tensor
    """int64 `[B, P]`: label of the ground truth, 0 background, -1 ignored."""
    gt_index: Tensor
    """int64 `[B, P]`: `gt_index[b, p] = g` means that prior p is assigned to ground truth g of image b, -1 to none."""
    loc_targets: Tensor
    """`[B, P, 4]`: the encoded box of the ground truth, 0 without one."""
