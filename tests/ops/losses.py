"""Inputs and results of the training loss, for its tests."""

from __future__ import annotations

import torch
from torch import Tensor

from ssd_ops.reference import multibox_loss
from ssd_ops.reference.outputs import all_outputs
from tests.ops.conftest import Implementation


def batch(
    images: int, priors: int, classes: int, dtype: torch.dtype = torch.float32, positives: int = 3, seed: int = 0
) -> list[Tensor]:
    """Returns loc, logits, loc_targets and labels with objects, background and, in the first image, an ignored prior."""
    generator = torch.Generator().manual_seed(seed)
    loc, targets = (2 * torch.randn(images, priors, 4, generator=generator) for _ in range(2))
    logits = 3 * torch.randn(images, priors, classes, generator=generator)
    labels = torch.zeros(images, priors, dtype=torch.int64)
    if classes > 1 and priors:
        rows = torch.rand(images, priors, generator=generator).argsort(1)[:, :positives]
        labels.scatter_(1, rows, torch.randint(1, classes, rows.shape, generator=generator))
    if images:
        labels[0, 5:6] = -1
    return [loc.to(dtype), logits.to(dtype), targets.to(dtype), labels]


def parts(
    impl: Implementation,
    *inputs: Tensor,
    neg_pos_ratio: float = 3.0,
    normalizer: str = "batch",
    min_negatives: int = 0,
    mining: str = "image",
) -> list[Tensor]:
    """Returns loc_loss, cls_loss and weight."""
    op = all_outputs(multibox_loss) if impl.name == "reference" else torch.ops.ssd_ops.multibox_loss
    options: dict[str, float | str] = {"neg_pos_ratio": neg_pos_ratio, "normalizer": normalizer}
    options |= {"min_negatives": min_negatives, "mining": mining}  # in the order of the schema
    return [t.cpu() for t in op(*(t.to(impl.device) for t in inputs), **options)]


def gradients(
    impl: Implementation, *inputs: Tensor, loc: float = 1.0, cls: float = 1.0, **options: float
) -> list[Tensor]:
    leaves = [t.clone().requires_grad_() for t in inputs[:2]]
    loc_loss, cls_loss = impl.multibox_loss(*leaves, *inputs[2:], **options)
    return list(torch.autograd.grad(loc * loc_loss + cls * cls_loss, leaves))
