"""The rows of a head's last layer: the box of the cell and the output that each row predicts."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from ssd.checkpoints.layout import Layout
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


def to_ours(tensor: Tensor, rows: HeadRows, layout: Layout, order: BoxOrder) -> Tensor:
    """Permutes rows [A * K, ...] of a system to this project's order, a * K + k."""
    rest = tensor.shape[1:]
    if layout.columns_first:
        tensor = tensor.reshape(-1, rows.boxes, *rest).transpose(0, 1)
    tensor = tensor.reshape(rows.boxes, -1, *rest)
    if layout.box_order is not None and layout.box_order != order:
        tensor = tensor[_box_permutation(rows.boxes, layout.box_order, order)]
    return _swapped(tensor, rows, layout).reshape(-1, *rest)


def to_theirs(tensor: Tensor, rows: HeadRows, layout: Layout, order: BoxOrder) -> Tensor:
    """Permutes rows of this project to the order of a system; the inverse of `to_ours`."""
    rest = tensor.shape[1:]
    tensor = _swapped(tensor.reshape(rows.boxes, -1, *rest), rows, layout)
    if layout.box_order is not None and layout.box_order != order:
        tensor = tensor[_box_permutation(rows.boxes, order, layout.box_order)]
    if layout.columns_first:
        tensor = tensor.transpose(0, 1)
    return tensor.reshape(-1, *rest)


def _swapped(tensor: Tensor, rows: HeadRows, layout: Layout) -> Tensor:
    """Swaps x with y and width with height in [A, 4, ...] where the two orders differ."""
    return tensor[:, [1, 0, 3, 2]] if layout.yx_deltas and not rows.is_class else tensor


def _box_permutation(boxes: int, source: BoxOrder, target: BoxOrder) -> list[int]:
    """Returns the index in the source order of each box of the target order."""
    theirs = _box_names(boxes, source)
    return [theirs.index(box) for box in _box_names(boxes, target)]


def _box_names(boxes: int, order: BoxOrder) -> list[tuple[int, bool]]:
    """Names the boxes of a cell, two squares and pairs of a ratio and its inverse, in an order of `PriorConfig`."""
    small, large = (-1, False), (-1, True)
    ratios = range((boxes - 2) // 2)
    if order == "grouped":
        return [small, large, *((ratio, inverse) for inverse in (False, True) for ratio in ratios)]
    pairs = [(ratio, inverse) for ratio in ratios for inverse in (False, True)]
    return [small, *pairs, large] if order == "tensorflow" else [small, large, *pairs]
