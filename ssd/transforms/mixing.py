"""Training images made of several: mosaics, and objects pasted from another image. Before the augmentation of each.

Both change whole images in their own pixels, so that everything after them (crop, color, flip, resize, also on the
training device) is as for any other image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from ssd.data.dataset import Target
from ssd.transforms.geometry import Placement, View, render
from ssd.transforms.objects import place_objects

Decoded = tuple[Tensor, Target]  # image uint8 [3, H, W], and its target
_POSITIONS = 20  # tried for each pasted object
_PASTED = 0.5  # probability that an object of the other image is pasted
_MIN_SIZE = 0.01  # in pixels: whatever is visible; the augmentation afterwards drops small objects


def mix(
    sample: Decoded,
    draw: Callable[[], Decoded | None],
    *,
    mosaic: float,
    copy_paste: float,
    cut: str,
    antialias: bool,
) -> Decoded:
    """Returns a sample mixed with others.

    Args:
        sample: The image and its target.
        draw: Returns a random sample of the data set; None if none can be read.
        mosaic: Probability of a mosaic.
        copy_paste: Probability that objects of another image are pasted.
        cut: What happens to objects that are cut off, with their center outside, see `Augmentation`.
        antialias: Whether the resizes of a mosaic antialias.
    """
    if mosaic and float(torch.rand(())) < mosaic and min(sample[0].shape[1:]) > 1:
        others = [draw() for _ in range(3)]
        sample = make_mosaic([sample, *(other or sample for other in others)], cut=cut, antialias=antialias)
    if copy_paste and float(torch.rand(())) < copy_paste and (other := draw()) is not None:
        sample = paste_objects(sample, other, cut=cut)
    return sample


def make_mosaic(samples: Sequence[Decoded], *, cut: str, antialias: bool) -> Decoded:
    """Returns four images side by side, in random order, in an image of the size of the first one.

    Args:
        samples: Four, the first at least 2 x 2 pixels.
        cut: What happens to objects that are cut off, with their center outside, at the edges of the tiles.
        antialias: As for any resize.

    Returns:
        The mosaic, with the id and everything else of the first target.
    """
    draws = torch.rand(2 + 3 * len(samples), dtype=torch.float64).tolist()
    shuffled = [samples[i] for i in torch.randperm(len(samples)).tolist()]
    image, target = samples[0]
    canvas, parts = torch.empty_like(image), []
    sizes = [(source.shape[1], source.shape[2]) for source, _ in shuffled]
    placements = mosaic_placements(sizes, (image.shape[1], image.shape[2]), draws)
    for (source, objects), placement in zip(shuffled, placements, strict=True):
        x1, y1, x2, y2 = placement.destination
        canvas[:, y1:y2, x1:x2] = render(source, placement, antialias=antialias)
        parts.append(place_objects(objects, placement, cut=cut, min_size=_MIN_SIZE))
    return canvas, _joined(target, parts)


def mosaic_placements(
    sizes: Sequence[tuple[int, int]], canvas: tuple[int, int], draws: Sequence[float]
) -> list[Placement]:
    """Returns which part of each image is in its tile: upper left, upper right, lower left, lower right.

    The tiles meet at a point in the middle half of the canvas. Each image is shown at 0.5 to 1 times the scale at which it
    would fit into the canvas, with its aspect ratio, but at least so large that it fills its tile.

    Args:
        sizes: Height and width of four images.
        canvas: Height and width of the mosaic.
        draws: 14 numbers in 0 .. 1: position of the point in x and y; for each image scale, position in x and y.
    """
    height, width = canvas
    x, y = (min(max(1, round(n * (0.25 + 0.5 * u))), n - 1) for n, u in zip((width, height), draws[:2], strict=True))
    tiles = View(0, 0, x, y), View(x, 0, width, y), View(0, y, x, height), View(x, y, width, height)
    placements = []
    for i, ((rows, columns), tile) in enumerate(zip(sizes, tiles, strict=True)):
        u = draws[2 + 3 * i : 5 + 3 * i]
        wide, high = tile.x2 - tile.x1, tile.y2 - tile.y1
        fitted = min(width / columns, height / rows)
        scale = max((0.5 + 0.5 * u[0]) * fitted, wide / columns, high / rows)
        seen_x, seen_y = (min(n, max(1, round(m / scale))) for n, m in ((columns, wide), (rows, high)))
        left, top = int((columns - seen_x) * u[1]), int((rows - seen_y) * u[2])
        placements.append(Placement(View(left, top, left + seen_x, top + seen_y), tile))
    return placements


def paste_objects(sample: Decoded, other: Decoded, *, cut: str) -> Decoded:
    """Returns a sample with objects of another one, each with all pixels of its box and at a random free position.

    A position is free if the box overlaps no object there, ignored ones included, so that all annotations stay valid. An
    object is skipped if none of some random positions is free, or if it is larger than the image.

    Args:
        sample: The image to paste into; it is not changed.
        other: The image whose objects are copied, each with a probability of one half, but no ignored ones.
        cut: What happens to other objects in the box of a copied one that are cut off, with their center outside.
    """
    image, target = sample[0].clone(), sample[1]
    source, objects = other
    height, width = image.shape[1:]
    chosen = ~objects["ignore"] & (torch.rand(len(objects["ignore"])) < _PASTED)
    for box in objects["boxes"][chosen].numpy():
        x1, y1 = (int(v) for v in np.floor(box[:2]))
        x2, y2 = (int(v) for v in np.ceil(box[2:]))
        wide, high = x2 - x1, y2 - y1
        if wide > width or high > height:
            continue
        corner = _free_corner(target["boxes"].numpy(), (wide, high), (width, height))
        if corner is None:
            continue
        left, top = corner
        placement = Placement(View(x1, y1, x2, y2), View(left, top, left + wide, top + high))
        image[:, top : top + high, left : left + wide] = source[:, y1:y2, x1:x2]
        target = _joined(target, [target, place_objects(objects, placement, cut=cut, min_size=_MIN_SIZE)])
    return image, target


def _free_corner(boxes: np.ndarray, size: tuple[int, int], canvas: tuple[int, int]) -> tuple[int, int] | None:
    # the first of some random positions, x and y, at which a box of this width and height overlaps none of boxes [G, 4]
    u = torch.rand(_POSITIONS, 2, dtype=torch.float64).numpy()
    low = (u * (np.array(canvas) - size + 1)).astype(np.int64)
    sides = np.minimum(low[:, None] + size, boxes[None, :, 2:]) - np.maximum(low[:, None], boxes[None, :, :2])
    free = np.flatnonzero(~(sides > 0).all(axis=2).any(axis=1))
    return (int(low[free[0], 0]), int(low[free[0], 1])) if len(free) else None


def _joined(target: Target, parts: Sequence[Target]) -> Target:
    # the objects of several targets, in one with everything else of the first argument
    return {**target, **{key: torch.cat([part[key] for part in parts]) for key in ("boxes", "labels", "ignore")}}
