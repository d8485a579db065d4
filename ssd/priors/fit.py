"""Suggests prior sizes that fit the objects of a data set: a search for the sizes whose priors overlap them best."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

import ssd_ops
from ssd.priors.boxes import PriorConfig, level_priors

_CELLS = 1 << 18  # entries of one IoU matrix: 1 MiB of float32, which stays in the cache


def fit_prior_sizes(
    config: PriorConfig,
    boxes: Iterable[Tensor],
    labels: Iterable[Tensor],
    objects_per_class: int = 300,
    rounds: int = 3,
) -> tuple[float, ...]:
    """Searches sizes for the levels of a configuration, judged by the priors themselves on their real grids.

    A clustering of box sizes alone would put sizes on levels whose cells are too far apart for them. Here rising
    geometric series are tried first, then single sizes are moved while that helps. The score of a class is the mean
    over its objects of the best IoU, and 1 more for each object whose best IoU reaches 0.5; classes count alike, so
    rare ones are not left behind. The sizes of `config` are the first candidate, so the result never scores below them.
    Deterministic.

    Args:
        config: grids, aspect ratios and clip; one min size for each level.
        boxes: [G, 4] xyxy of each image, normalized to it. Boxes without area are left out.
        labels: [G] of each image.
        objects_per_class: evenly spaced sample that is judged.
        rounds: passes over all sizes.
    Returns:
        levels + 1 rising sizes in pixels of the input, for PriorConfig.from_sizes or the option prior_sizes.
    Raises:
        ValueError: no box has an area, or the configuration has several min sizes in a level.
    """
    if any(len(small) != 1 for small in config.min_sizes):
        raise ValueError(f"config must have one min size for each level, got {config.min_sizes}")
    sample, weight = _sample(boxes, labels, objects_per_class)
    last = config.max_sizes[-1]
    current = (*(small[0] for small in config.min_sizes), last[0] if last else config.image_size * 1.05)
    levels: dict[tuple[int, float, float], Tensor] = {}  # a move changes two levels, the others are as they were

    def best_of_level(tried: PriorConfig, level: int, sizes: Sequence[float]) -> Tensor:
        key = (level, sizes[level], sizes[level + 1])
        if key not in levels:
            priors = torch.from_numpy(level_priors(tried, level)[1].astype(np.float32))
            parts = sample.split(max(1, _CELLS // len(priors)))
            levels[key] = torch.cat([ssd_ops.box_iou(part, priors).amax(dim=1) for part in parts])
        return levels[key]

    def score(sizes: Sequence[float]) -> float:
        maxima = tuple((s,) if kept else None for s, kept in zip(sizes[1:], config.max_sizes, strict=True))
        tried = dataclasses.replace(config, min_sizes=tuple((s,) for s in sizes[:-1]), max_sizes=maxima)
        found = torch.stack([best_of_level(tried, level, sizes) for level in range(len(maxima))])
        best = found.amax(dim=0).double()
        return ((best + (best >= 0.5)) * weight).sum().item()

    best, best_score = tuple(current), score(current)
    for sizes in _series(sample, len(current), config.image_size):
        if (value := score(sizes)) > best_score:
            best, best_score = sizes, value
    for step in (1.25, 1.12, 1.06)[:rounds]:
        for k in range(len(best)):
            for factor in (1 / step, step):
                moved = (*best[:k], round(best[k] * factor, 1), *best[k + 1 :])
                if all(b > a for a, b in pairwise(moved)) and (value := score(moved)) > best_score:
                    best, best_score = moved, value
    return best


def _sample(boxes: Iterable[Tensor], labels: Iterable[Tensor], count: int) -> tuple[Tensor, Tensor]:
    """Up to `count` boxes of each class, float32 [N, 4], and their weights, which give every class the same say."""
    packed = [b.detach().reshape(-1, 4).float() for b in boxes]
    flat = torch.cat(packed) if packed else torch.zeros(0, 4)
    label = torch.cat([x.detach().reshape(-1) for x in labels]) if packed else torch.zeros(0)
    solid = (flat[:, 2:] > flat[:, :2]).all(dim=1)
    flat, label = flat[solid], label[solid]
    if not len(flat):
        raise ValueError("boxes must hold at least one box with an area, got none")
    parts, weights = [], []
    for value in label.unique():
        own = flat[label == value]
        own = own[torch.linspace(0, len(own) - 1, min(count, len(own))).round().long()]
        parts.append(own)
        weights.append(torch.full((len(own),), 1 / len(own), dtype=torch.float64))
    return torch.cat(parts), torch.cat(weights)


def _series(sample: Tensor, count: int, image_size: int) -> list[tuple[float, ...]]:
    """Geometric series of `count` sizes from below the smallest objects to the image, or to the largest objects."""
    sides = (sample[:, 2:] - sample[:, :2]).prod(dim=1).sqrt() * image_size
    low = sides.quantile(torch.tensor([0.02, 0.1, 0.25])).tolist()
    high = [max(sides.max().item(), 2 * low[-1]), image_size * 1.05]
    series = []
    for first in low:
        for last in high:
            ratio = (last / first) ** (1 / (count - 1))
            if ratio > 1:
                series.append(tuple(round(first * ratio**k, 1) for k in range(count)))
    return [s for s in series if all(b > a for a, b in pairwise(s))]
