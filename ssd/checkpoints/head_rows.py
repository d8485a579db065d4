"""The rows of a head's last layer: the box of the cell and the output that each row predicts."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ssd.checkpoints.layouts import Layout
from ssd.models import SSD
from ssd.priors import BoxOrder


@dataclass(frozen=True)
class HeadRows:
    """The `boxes * columns` rows of one weight or bias.

    Args:
        boxes: Boxes per cell of the level.
        columns: Outputs per box: 4, or the number of classes.
        is_class: Whether the rows predict class logits.
        level: Index of the feature level.
    """

    boxes: int
    columns: int
    is_class: bool
    level: int


def head_rows(model: SSD) -> dict[str, HeadRows]:
    """Returns the rows of the last layers of all heads, by name of the weight."""
    out: dict[str, HeadRows] = {}
    boxes = model.prior_config.boxes_per_cell
    for part, columns in (("regression_head", 4), ("classification_head", model.num_classes)):
        levels = model.head.get_submodule(f"{part}.module_list")
        for level, predictor in enumerate(levels.children()):
            name = [n for n, layer in predictor.named_modules() if isinstance(layer, nn.Conv2d)][-1]
            prefix = ".".join(filter(None, ("head", part, "module_list", str(level), name)))
            rows = HeadRows(boxes[level], columns, part == "classification_head", level)
            out.update({f"{prefix}.weight": rows, f"{prefix}.bias": rows})
    return out


def to_ours(tensor: Tensor, boxes: int, layout: Layout, order: BoxOrder) -> Tensor:
    """Permutes rows [A * K, ...] of a system to this project's order, a * K + k."""
    rest = tensor.shape[1:]
    if layout.columns_first:
        tensor = tensor.reshape(-1, boxes, *rest).transpose(0, 1)
    tensor = tensor.reshape(boxes, -1, *rest)
    if layout.box_order is not None and layout.box_order != order:
        tensor = tensor[_box_permutation(boxes, order)]
    return tensor.reshape(-1, *rest)


def to_theirs(tensor: Tensor, boxes: int, layout: Layout, order: BoxOrder) -> Tensor:
    """Permutes rows of this project to the order of a system; the inverse of `to_ours`."""
    rest = tensor.shape[1:]
    tensor = tensor.reshape(boxes, -1, *rest)
    if layout.box_order is not None and layout.box_order != order:
        tensor = tensor[torch.argsort(torch.tensor(_box_permutation(boxes, order)))]
    if layout.columns_first:
        tensor = tensor.transpose(0, 1)
    return tensor.reshape(-1, *rest)


def _box_permutation(boxes: int, order: BoxOrder) -> list[int]:
    """Returns the index of each box in the other order: two squares, then ratios and inverses in pairs or grouped."""
    ratios = (boxes - 2) // 2
    grouped = [0, 1, *(2 + j + inverse * ratios for j in range(ratios) for inverse in (0, 1))]
    return grouped if order == "pairs" else [grouped.index(i) for i in range(boxes)]
