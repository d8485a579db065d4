"""One typical call of every op, with the arguments of its schema, for tests of all ops."""

from __future__ import annotations

from typing import Any

import torch

from tests.ops.boxes import random_boxes
from tests.ops.levels import as_levels

VARIANCES = [0.1, 0.1, 0.2, 0.2]
CLASSES, PRIORS = 5, 70
CELLS = ((4, 4, 4), (2, 1, 3))


def sample_arguments(dtype: torch.dtype = torch.float32) -> dict[str, tuple[Any, ...]]:
    """Returns for every op the positional arguments of one call with a nontrivial result."""
    generator = torch.Generator().manual_seed(0)
    out_dtype = torch.float64 if dtype == torch.float64 else torch.float32

    def randn(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).to(dtype)

    boxes, few = random_boxes(PRIORS, seed=1, dtype=dtype), random_boxes(9, seed=2, dtype=dtype)
    batch = random_boxes(2, PRIORS, seed=3, dtype=dtype)
    scores, idxs = randn(PRIORS).sigmoid(), torch.arange(PRIORS) % 3
    class_scores = randn(2, PRIORS, CLASSES).softmax(-1)
    gt_labels, offsets = torch.arange(9) % 4 + 1, torch.tensor([0, 4, 9])
    labels = torch.randint(-1, CLASSES, (2, PRIORS), generator=generator) * (torch.arange(PRIORS) % 4 == 0)
    loc, logits, targets = randn(2, PRIORS, 4), randn(2, PRIORS, CLASSES), randn(2, PRIORS, 4)
    levels = as_levels(loc, CELLS), as_levels(logits, CELLS)
    weight = ((labels > 0) / 7).to(out_dtype)
    pixels = torch.randint(0, 256, (3 * 90,), generator=generator).to(torch.uint8)
    crops, three = torch.tensor([[1.5, 0, 9, 7], [-2, 1, 8, 5]]).to(dtype), [0.5, 1.0, 2.0]
    places = torch.tensor([0, 150]), torch.tensor([[5, 10], [8, 5]])
    return {
        "box_iou": (few, boxes),
        "box_iou_out": (few, boxes, torch.zeros(9, PRIORS, dtype=out_dtype)),
        "generalized_box_iou": (few, boxes),
        "distance_box_iou": (few, boxes),
        "complete_box_iou": (few, boxes),
        "grad_box_iou": (randn(9, PRIORS), few, boxes, "complete_box_iou"),
        "encode_boxes": (batch, boxes, VARIANCES, "center_size"),
        "grad_encode_boxes": (randn(2, PRIORS, 4), batch, boxes, VARIANCES, "center_size"),
        "decode_boxes": (loc, boxes, VARIANCES, "center_size"),
        "grad_decode_boxes": (randn(2, PRIORS, 4), loc, boxes, VARIANCES, "corner_size"),
        "match_priors": (few, gt_labels, offsets, gt_labels == 3, boxes, 0.4, "greedy", True, VARIANCES),
        "multibox_loss": (loc, logits, targets, labels, 3.0, "batch_size", 1, "batch"),
        "multibox_loss_levels": (*levels, targets, labels, 3.0, "batch_size", 1, "batch"),
        "grad_multibox_loss_levels": (torch.tensor(1.0), torch.tensor(0.5), *levels, targets, labels, weight),
        "grad_multibox_loss": (torch.tensor(1.0), torch.tensor(0.5), loc, logits, targets, labels, weight),
        "nms": (boxes, scores, 0.3, False),
        "batched_nms": (boxes, scores, idxs, 0.3, True),
        "multiclass_nms": (batch, class_scores, 0.2, 0.4, 20, 15, True, 0.1),
        "soft_nms": (batch, class_scores, "gaussian", 0.5, 0.3, 0.1, 15, True, True),
        "render_images": (
            *(pixels, *places, crops, torch.tensor([True, False]), randn(2, 3, 4), randn(2), 6, True),
            *(three, three, three, "float32"),
        ),
        "detect": (loc, logits, boxes, 0.2, 0.45, 20, 15, VARIANCES, True, True, False, 0.05),
        "detect_levels": (*levels, boxes, 0.2, 0.45, 20, 15, VARIANCES, True, True, False, 0.05),
    }
