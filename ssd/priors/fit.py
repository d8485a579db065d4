"""Fits prior sizes to the objects of a data set, by searching for the sizes with the highest IoU."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from ssd.priors.boxes import PriorConfig, level_priors
from ssd.priors.coverage import best_ious


def fit_prior_sizes(
    config: PriorConfig,
    boxes: Iterable[Tensor],
    labels: Iterable[Tensor],
    objects_per_class: int = 300,
    rounds: int = 3,
    iou_threshold: float = 0.5,
) -> tuple[float, ...]:
    """Searches for the sizes of a configuration whose priors, on their actual grids, overlap the objects best.

    Clustering box sizes alone would assign sizes to levels whose cells are too far apart. This search tries ascending
    geometric series first, then moves single sizes as long as the score increases. The score is the mean over the
    objects of their best IoU, plus 1 for an IoU of at least the threshold; all classes have the same weight, so that
    rare ones are not neglected. The sizes of `config` are the first candidate, so the result never scores below them.
    The search is deterministic.

    Args:
        config: Grids, aspect ratios and clip; one min size per level.
        boxes: Boxes `[G, 4]` of each image, normalized xyxy. Boxes without area are ignored.
        labels: Labels `[G]` of each image.
        objects_per_class: Number of evenly spaced objects to sample from each class.
        rounds: Number of passes over all sizes.
        iou_threshold: IoU threshold of a match: `match_iou_threshold` of the model's preset.

    Returns:
        levels + 1 ascending sizes in pixels of the input, at least 1, for `PriorConfig.from_sizes` or the option
        prior_sizes.

    Raises:
        ValueError: No box has an area, or a level has several min sizes.
    """
    if any(len(small) != 1 for small in config.min_sizes):
        raise ValueError(f"config must have one min size for each level, got {config.min_sizes}")
    sample, weight = _sample(boxes, labels, objects_per_class)
    last = config.max_sizes[-1]
    current = (*(small[0] for small in config.min_sizes), last[0] if last else config.image_size * 1.05)
    levels: dict[tuple[int, float, float], Tensor] = {}  # cache: a move changes two levels only

    def best_of_level(candidate: PriorConfig, level: int, sizes: Sequence[float]) -> Tensor:
        key = (level, sizes[level], sizes[level + 1])
        if key not in levels:
            priors = torch.from_numpy(level_priors(candidate, level)[1].astype(np.float32))
            levels[key] = best_ious(priors, sample)
        return levels[key]

    def score(sizes: Sequence[float]) -> float:
        max_sizes = tuple((s,) if has_max else None for s, has_max in zip(sizes[1:], config.max_sizes, strict=True))
        candidate = dataclasses.replace(config, min_sizes=tuple((s,) for s in sizes[:-1]), max_sizes=max_sizes)
        ious = torch.stack([best_of_level(candidate, level, sizes) for level in range(len(max_sizes))])
        best = ious.amax(dim=0)
        return ((best.double() + (best >= iou_threshold)) * weight).sum().item()

    best, best_score = tuple(current), score(current)
    for sizes in _series(sample, len(current), config.image_size):
        if (value := score(sizes)) > best_score:
            best, best_score = sizes, value
    for step in (1.25, 1.12, 1.06)[:rounds]:
        for k in range(len(best)):
            for factor in (1 / step, step):
                moved = (*best[:k], round(best[k] * factor, 1), *best[k + 1 :])
                if _are_valid(moved) and (value := score(moved)) > best_score:
                    best, best_score = moved, value
    return best


def _sample(boxes: Iterable[Tensor], labels: Iterable[Tensor], count: int) -> tuple[Tensor, Tensor]:
    """Returns up to `count` boxes of each class, float32 `[N, 4]`, and weights that sum to 1 for each class."""
    packed = [b.detach().reshape(-1, 4).float() for b in boxes]
    flat = torch.cat(packed) if packed else torch.zeros(0, 4)
    label = torch.cat([x.detach().reshape(-1) for x in labels]) if packed else torch.zeros(0)
    solid = (flat[:, 2:] > flat[:, :2]).all(dim=1)
    flat, label = flat[solid], label[solid]
    if not len(flat):
        raise ValueError("boxes must contain at least one box with an area, got none")
    parts, weights = [], []
    for value in label.unique():
        own = flat[label == value]
        own = own[torch.linspace(0, len(own) - 1, min(count, len(own))).round().long()]
        parts.append(own)
        weights.append(torch.full((len(own),), 1 / len(own), dtype=torch.float64))
    return torch.cat(parts), torch.cat(weights)


def _series(sample: Tensor, count: int, image_size: int) -> list[tuple[float, ...]]:
    """Returns geometric series of `count` sizes, from the smallest objects to the largest ones or the image size."""
    sides = (sample[:, 2:] - sample[:, :2]).prod(dim=1).sqrt() * image_size
    low = sides.quantile(torch.tensor([0.02, 0.1, 0.25])).tolist()
    high = [max(sides.max().item(), 2 * low[-1]), image_size * 1.05]
    series = []
    for first in low:
        for last in high:
            ratio = (last / first) ** (1 / (count - 1))
            if ratio > 1:
                series.append(tuple(round(first * ratio**k, 1) for k in range(count)))
    return [sizes for sizes in series if _are_valid(sizes)]


def _are_valid(sizes: Sequence[float]) -> bool:
    # Boxes in fractions that are read as pixels have objects far below a pixel.
    return sizes[0] >= 1 and all(b > a for a, b in pairwise(sizes))
