"""Benchmark inputs: boxes, priors, ground truth and logits with the statistics of real detectors."""

from __future__ import annotations

import torch
from torch import Tensor

from ssd.priors import PriorConfig, make_priors


def uniform_boxes(count: int, generator: torch.Generator, side: float = 1000.0) -> Tensor:
    """Returns boxes `[N, 4]` of 10 to 110 pixels, uniformly distributed over an image."""
    corner = torch.rand(count, 2, generator=generator) * side
    size = 10 + torch.rand(count, 2, generator=generator) * 100
    return torch.cat([corner, corner + size], dim=1)


def clustered_boxes(count: int, objects: int, generator: torch.Generator) -> Tensor:
    """Returns boxes `[N, 4]` clustered around some objects, like the output of a detector before NMS."""
    gt = uniform_boxes(objects, generator)
    which = torch.randint(0, objects, (count,), generator=generator)
    size = (gt[which, 2:] - gt[which, :2]).repeat(1, 2)
    return gt[which] + torch.randn(count, 4, generator=generator) * 0.08 * size


def distinct_scores(count: int, generator: torch.Generator) -> Tensor:
    """Returns scores `[N]` in 0 .. 1 without ties: torchvision's `batched_nms` does not define the order of ties."""
    return (1 + torch.randperm(count, generator=generator)) / count


def ssd300_priors() -> Tensor:
    """Returns the 8732 priors of SSD300 with COCO sizes, `[P, 4]` xyxy in 0 .. 1."""
    sizes = (21, 45, 99, 153, 207, 261, 315)
    grids = [(n, n) for n in (38, 19, 10, 5, 3, 1)]
    ratios = [(2.0,), (2.0, 3.0), (2.0, 3.0), (2.0, 3.0), (2.0,), (2.0,)]
    return make_priors(PriorConfig.from_sizes(300, grids, sizes, ratios, steps=(8, 16, 32, 64, 100, 300), clip="wh"))


def ground_truths(batch: int, objects: int, generator: torch.Generator) -> tuple[list[Tensor], list[Tensor]]:
    """Returns boxes `[G, 4]` in 0 .. 1 and labels `[G]` of each image, with log-uniform sizes."""
    boxes, labels = [], []
    for _ in range(batch):
        size = torch.exp(torch.rand(objects, 2, generator=generator) * 2.3 - 3.0)  # 5 % to 50 % of the image
        corner = torch.rand(objects, 2, generator=generator) * (1 - size)
        boxes.append(torch.cat([corner, corner + size], dim=1))
        labels.append(torch.randint(1, 91, (objects,), generator=generator))
    return boxes, labels


def trained_logits(batch: int, priors: int, classes: int, candidates: int, generator: torch.Generator) -> Tensor:
    """Returns logits `[B, P, C]` like a trained detector's: background except for about `candidates` priors per image."""
    logits = torch.randn(batch, priors, classes, generator=generator)
    logits[..., 0] += 12
    rows = torch.randint(0, priors, (batch, candidates), generator=generator)
    label = torch.randint(1, classes, (batch, candidates), generator=generator)
    strength = 9 + 6 * torch.rand(batch, candidates, generator=generator)
    image = torch.arange(batch)[:, None].expand_as(rows)
    logits[image, rows, label] = strength
    return logits
