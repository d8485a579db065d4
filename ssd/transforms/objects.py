"""The objects of an image after a part of it was moved."""

from __future__ import annotations

import torch

from ssd.data.dataset import Target
from ssd.transforms.geometry import Placement, map_boxes


def place_objects(target: Target, placement: Placement, *, cut: str, min_size: float) -> Target:
    """Returns the objects that are visible in a placement.

    In numpy, because for a few boxes a single torch call takes longer than this.

    Args:
        target: Boxes float32 `[G, 4]` xyxy in pixels of the source, labels and ignore flags.
        placement: The visible part of the source, and where it is placed.
        cut: What happens to visible objects whose center is outside the visible part, see `Augmentation`.
        min_size: Minimum width and height of an object, in pixels of the destination.

    Returns:
        The target with boxes in pixels of the destination, clipped to the visible part.
    """
    boxes, ignored = target["boxes"].numpy(), target["ignore"].numpy()
    x1, y1, x2, y2 = placement.source
    x, y = (boxes[:, 0] + boxes[:, 2]) / 2, (boxes[:, 1] + boxes[:, 3]) / 2
    inside = (x1 < x) & (x < x2) & (y1 < y) & (y < y2)
    mapped = map_boxes(boxes, placement)
    visible = (mapped[:, 2] - mapped[:, 0] >= min_size) & (mapped[:, 3] - mapped[:, 1] >= min_size)
    # An ignored object stays ignored as long as any part of it is visible.
    kept = visible & (inside | ignored) if cut == "drop" else visible
    index = kept.nonzero()[0]
    rows = torch.from_numpy(index)
    is_cut = torch.from_numpy(~inside[index] & (cut != "keep"))
    return {
        **target,
        "boxes": torch.from_numpy(mapped[index]),
        "labels": target["labels"][rows],
        "ignore": target["ignore"][rows] | is_cut,
    }
