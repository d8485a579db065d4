"""Zoom-out and IoU crop as rectangles: all steps are drawn first, and the image is rendered once.

Both steps, and the resize after them, only select the visible part of the plane. So no canvas of up to 16 times the
image is ever filled: the steps shrink or enlarge a `View`, and the part of the image inside the final view is resized
once, directly to its place in the output. The distribution is that of `v2.RandomZoomOut` and `v2.RandomIoUCrop`.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ssd.transforms.resize import resize_image

_ROUNDS = 50  # minimum IoUs drawn before the crop is given up; each is tried with `trials` crops


class View(NamedTuple):
    """A rectangle in pixels of the source image; it may extend beyond the image."""

    x1: int
    y1: int
    x2: int
    y2: int


@dataclass(frozen=True)
class CropRule:
    """The crops that `crop_view` may draw.

    Args:
        min_ious: One is drawn for each crop: some object inside must have at least this IoU with the crop; 1 and above
            means no crop.
        scale: Min and max width and height, relative to the view's.
        aspect: Min and max width / height of the crop, in pixels.
        relative: Whether `aspect` is relative to the view's own, so that 1 keeps the aspect ratio of the image.
        trials: Crops tried for each drawn minimum IoU.
    """

    min_ious: tuple[float, ...] = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0)
    scale: tuple[float, float] = (0.3, 1.0)
    aspect: tuple[float, float] = (0.5, 2.0)
    relative: bool = False
    trials: int = 40


def zoom_view(view: View, max_side: float) -> View:
    """Enlarges a view to 1 .. `max_side` times its sides, with the old view at a random position in it."""
    u = torch.rand(3).tolist()
    ratio = 1.0 + (max_side - 1.0) * u[0]
    width, height = view.x2 - view.x1, view.y2 - view.y1
    wide, high = int(width * ratio), int(height * ratio)
    left, top = view.x1 - int((wide - width) * u[1]), view.y1 - int((high - height) * u[2])
    return View(left, top, left + wide, top + high)


def jitter_view(view: View, low: float, high: float) -> View:
    """Returns a square window on the view, with a side of the view's longer side divided by a random scale.

    This is torchvision's large-scale jitter (`ScaleJitter` and `FixedSizeCrop`) in coordinates of the image: a window
    narrower than the view has a random position in it, at the same fraction of the free space in x and y; in a wider
    window the view is at the upper left.
    """
    scale, position = torch.rand(2).tolist()
    width, height = view.x2 - view.x1, view.y2 - view.y1
    side = max(1, round(max(width, height) / (low + (high - low) * scale)))
    left, top = view.x1 + int(max(width - side, 0) * position), view.y1 + int(max(height - side, 0) * position)
    return View(left, top, left + side, top + side)


def crop_view(view: View, boxes: np.ndarray, rule: CropRule) -> View:
    """Crops a view at random so that the IoU rule is met.

    A crop must strictly contain the center of an object, and one of these objects must have at least the drawn IoU.
    All trials are drawn and tested at once; the first that passes is returned. Without objects any crop passes
    (torchvision does not crop such an image). If no crop passes in many rounds, the view is returned unchanged.

    Args:
        view: The rectangle to crop.
        boxes: `[G, 4]` xyxy of the objects that are not ignored, in pixels of the source image.
        rule: The crops that may be drawn.
    """
    width, height = view.x2 - view.x1, view.y2 - view.y1
    low, high = rule.scale
    unit = width / height if rule.relative else 1.0
    for _ in range(_ROUNDS):
        min_iou = rule.min_ious[int(torch.randint(len(rule.min_ious), ()))]
        if min_iou >= 1.0:
            return view
        u = torch.rand(4, rule.trials, dtype=torch.float64).numpy()
        wide = (width * (low + (high - low) * u[0])).astype(np.int64)
        tall = (height * (low + (high - low) * u[1])).astype(np.int64)
        left = view.x1 + ((width - wide) * u[2]).astype(np.int64)
        top = view.y1 + ((height - tall) * u[3]).astype(np.int64)
        passed = (wide > 0) & (tall > 0) & (wide >= rule.aspect[0] * unit * tall)
        passed &= wide <= rule.aspect[1] * unit * tall
        crops = np.stack([left, top, left + wide, top + tall], axis=1)
        if len(boxes):
            passed &= _best_iou(crops, boxes) >= min_iou
        chosen = np.flatnonzero(passed)
        if chosen.size:
            return View(*crops[chosen[0]].tolist())
    return view


def _best_iou(crops: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    # [T] max IoU of each crop with the boxes whose center is in it, -1 if there is none
    crop, box = crops[:, None, :], boxes[None, :, :]  # [T, 1, 4], [1, G, 4]
    center = (box[..., :2] + box[..., 2:]) / 2
    inside = ((crop[..., :2] < center) & (center < crop[..., 2:])).all(-1)
    sides = np.clip(np.minimum(crop[..., 2:], box[..., 2:]) - np.maximum(crop[..., :2], box[..., :2]), 0, None)
    overlap = sides[..., 0] * sides[..., 1]
    areas = (crops[:, 2] - crops[:, 0]) * (crops[:, 3] - crops[:, 1])
    box_areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    iou = overlap / (areas[:, None] + box_areas[None, :] - overlap)
    best: np.ndarray = np.where(inside, iou, -1.0).max(axis=1)
    return best


@dataclass(frozen=True)
class Placement:
    """How a view is rendered: the visible part of the image, and its place in the output, both in whole pixels."""

    source: View
    destination: View

    @property
    def scale(self) -> tuple[float, float]:
        """Output pixels per source pixel in x and y; boxes are mapped by exactly this, so they stay on their objects."""
        (sx1, sy1, sx2, sy2), (dx1, dy1, dx2, dy2) = self.source, self.destination
        return (dx2 - dx1) / (sx2 - sx1), (dy2 - dy1) / (sy2 - sy1)


def make_placement(view: View, height: int, width: int, side: int) -> Placement:
    """Returns how the view of an image is rendered to `side x side` pixels; it must overlap the image."""
    source = View(max(view.x1, 0), max(view.y1, 0), min(view.x2, width), min(view.y2, height))
    dx1, dx2 = _span(source.x1, source.x2, view.x1, view.x2, side)
    dy1, dy2 = _span(source.y1, source.y2, view.y1, view.y2, side)
    return Placement(source, View(dx1, dy1, dx2, dy2))


def _span(start: int, end: int, view_start: int, view_end: int, side: int) -> tuple[int, int]:
    factor = side / (view_end - view_start)
    first = min(round((start - view_start) * factor), side - 1)
    return first, max(round((end - view_start) * factor), first + 1)


def render(image: Tensor, placement: Placement, *, antialias: bool) -> Tensor:
    """Returns the visible part of a uint8 image `[3, H, W]` at its size in the output."""
    (x1, y1, x2, y2), (dx1, dy1, dx2, dy2) = placement.source, placement.destination
    return resize_image(image[:, y1:y2, x1:x2], [dy2 - dy1, dx2 - dx1], antialias=antialias)


def map_boxes(boxes: np.ndarray, placement: Placement) -> np.ndarray:
    """Maps boxes float32 `[G, 4]` from source pixels to output pixels, clipped to the visible part."""
    source, destination = (np.array(view, dtype=np.float32) for view in (placement.source, placement.destination))
    low, high = np.tile(source[:2], 2), np.tile(source[2:], 2)
    offset, end = np.tile(destination[:2], 2), np.tile(destination[2:], 2)
    scale = np.array(placement.scale * 2, dtype=np.float32)
    # Clipped again: the product may round to slightly beyond the edge.
    return ((boxes.clip(low, high) - low) * scale + offset).clip(offset, end)
