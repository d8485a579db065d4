"""Zoom-out and IoU crop as rectangles: chosen first, rendered once.

Both steps, and the resize after them, only choose which part of the plane is shown. So no canvas of up to 16 times the
image is ever painted: the steps narrow or widen a `View`, and the part of the image that the last view shows is resized
once, straight to where it belongs in the output. The distribution is that of ``v2.RandomZoomOut`` and
``v2.RandomIoUCrop``.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2.functional import resize_image

_ROUNDS = 50  # IoU rules drawn before the crop is given up; each has `trials` tries


class View(NamedTuple):
    """A rectangle in pixels of the source image; it may reach beyond it."""

    x1: int
    y1: int
    x2: int
    y2: int


@dataclass(frozen=True)
class CropRule:
    """What `crop_view` may choose.

    Args:
        min_ious: one is drawn for each crop: some object inside must have at least this IoU with the crop; 1 and above
            stands for "no crop".
        scale: least and greatest width, and height, as a share of the view's.
        aspect: least and greatest width / height of the crop, in pixels.
        relative: count `aspect` relative to the view's own, so that 1 keeps the proportions of the picture.
        trials: crops tried for each `min_ious` drawn.
    """

    min_ious: tuple[float, ...] = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0)
    scale: tuple[float, float] = (0.3, 1.0)
    aspect: tuple[float, float] = (0.5, 2.0)
    relative: bool = False
    trials: int = 40


def zoom_view(view: View, max_side: float) -> View:
    """Widens a view to 1 .. `max_side` times its sides, the view lying anywhere in it."""
    u = torch.rand(3).tolist()
    ratio = 1.0 + (max_side - 1.0) * u[0]
    width, height = view.x2 - view.x1, view.y2 - view.y1
    wide, high = int(width * ratio), int(height * ratio)
    left, top = view.x1 - int((wide - width) * u[1]), view.y1 - int((high - height) * u[2])
    return View(left, top, left + wide, top + high)


def jitter_view(view: View, low: float, high: float) -> View:
    """Returns a square window on the view, whose side is the view's longer one divided by a random scale.

    This is torchvision's large-scale jitter (``ScaleJitter`` and ``FixedSizeCrop``) seen from the image: where the window
    is narrower than the view it lies anywhere in it, at one share of the way across and down; where it is wider, the
    view fills its upper left part.
    """
    scale, place = torch.rand(2).tolist()
    width, height = view.x2 - view.x1, view.y2 - view.y1
    side = max(1, round(max(width, height) / (low + (high - low) * scale)))
    left, top = (one + int(max(length - side, 0) * place) for one, length in ((view.x1, width), (view.y1, height)))
    return View(left, top, left + side, top + side)


def crop_view(view: View, boxes: np.ndarray, rule: CropRule) -> View:
    """Narrows a view to a random crop that meets the IoU rule.

    A crop needs the center of an object strictly inside it and, among those objects, one with the IoU that was drawn.
    All trials are drawn and judged at once; the first that passes is taken. Without objects any crop passes
    (torchvision leaves such an image whole). Where no crop passes in many rounds the view stays as it is.

    Args:
        view: the rectangle to crop.
        boxes: ``[G, 4]`` xyxy of the objects that count, in pixels of the source image.
        rule: the choices.
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
    # [T] greatest IoU of each crop with the boxes whose center lies in it, -1 where there is none
    crop, box = crops[:, None, :], boxes[None, :, :]  # [T, 1, 4], [1, G, 4]
    center = (box[..., :2] + box[..., 2:]) / 2
    inside = ((crop[..., :2] < center) & (center < crop[..., 2:])).all(-1)
    sides = np.clip(np.minimum(crop[..., 2:], box[..., 2:]) - np.maximum(crop[..., :2], box[..., :2]), 0, None)
    overlap = sides[..., 0] * sides[..., 1]
    areas = (crops[:, 2] - crops[:, 0]) * (crops[:, 3] - crops[:, 1])
    box_areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    iou = overlap / (areas[:, None] + box_areas[None, :] - overlap)
    return np.where(inside, iou, -1.0).max(axis=1)


@dataclass(frozen=True)
class Placement:
    """How a view is rendered: the visible part of the image, and where in the output it goes; whole pixels both."""

    source: View
    destination: View

    @property
    def scale(self) -> tuple[float, float]:
        """Output pixels per source pixel, across and down; boxes are mapped by exactly this and so stay in place."""
        (sx1, sy1, sx2, sy2), (dx1, dy1, dx2, dy2) = self.source, self.destination
        return (dx2 - dx1) / (sx2 - sx1), (dy2 - dy1) / (sy2 - sy1)


def place(view: View, height: int, width: int, side: int) -> Placement:
    """Returns how the view of an image is rendered into ``side x side`` pixels; it must show some of the image."""
    source = View(max(view.x1, 0), max(view.y1, 0), min(view.x2, width), min(view.y2, height))
    dx1, dx2 = _span(source.x1, source.x2, view.x1, view.x2, side)
    dy1, dy2 = _span(source.y1, source.y2, view.y1, view.y2, side)
    return Placement(source, View(dx1, dy1, dx2, dy2))


def _span(start: int, end: int, view_start: int, view_end: int, side: int) -> tuple[int, int]:
    factor = side / (view_end - view_start)
    first = min(round((start - view_start) * factor), side - 1)
    return first, max(round((end - view_start) * factor), first + 1)


def render(image: Tensor, placement: Placement, *, antialias: bool) -> Tensor:
    """Returns the visible part of a uint8 image ``[3, H, W]`` at the size that it has in the output."""
    (x1, y1, x2, y2), (dx1, dy1, dx2, dy2) = placement.source, placement.destination
    return resize_image(image[:, y1:y2, x1:x2], [dy2 - dy1, dx2 - dx1], antialias=antialias)


def map_boxes(boxes: np.ndarray, placement: Placement) -> np.ndarray:
    """Maps boxes float32 ``[G, 4]`` from source pixels to output pixels, clipped to the visible part."""
    source, destination = (np.array(view, dtype=np.float32) for view in (placement.source, placement.destination))
    low, high = np.tile(source[:2], 2), np.tile(source[2:], 2)
    offset, end = np.tile(destination[:2], 2), np.tile(destination[2:], 2)
    scale = np.array(placement.scale * 2, dtype=np.float32)
    # Clamped once more: the product may round to a hair beyond the edge.
    return ((boxes.clip(low, high) - low) * scale + offset).clip(offset, end)
