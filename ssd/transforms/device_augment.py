"""Augmentation whose pixels are left to the device that trains: `Augment`'s chance and boxes, and no rendering."""

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from ssd.data.dataset import Target
from ssd.data.loading.packed_images import Canvas, Unrendered
from ssd.transforms.augment import Augment, Turn
from ssd.transforms.color_matrix import color_matrix
from ssd.transforms.geometry import View, render

MOST_PIXELS = 16  # of a crop for each of the output
MOST_SIDE = 32767  # that render_images takes
_UNCHANGED = np.eye(3, 4, dtype=np.float32), 0.0


@dataclass(frozen=True)
class Deferred:
    """Draws what an `Augment` draws, and does with the target what it does; the pixels are those that the crop shows,
    as they were decoded, with what `ssd_ops.render_images` needs to know.

    Crop, size, fill and flips are those of `Augment`, whose pixels are rounded to bytes while these are not; colors
    differ as told at `color_matrix`. Where a crop has more than 16 times the pixels of the output, it would cost more to
    hand on than to resize, and it is resized here.
    """

    augment: Augment

    def __call__(self, image: Tensor, target: Target) -> tuple[Unrendered, Target]:
        side, rule = self.augment.side, self.augment.rule
        image, target, plan = self.augment.plan(image, target)
        (x1, y1, x2, y2), destination = plan.placement.source, plan.placement.destination
        pixels = image[:, y1:y2, x1:x2]
        if pixels[0].numel() > MOST_PIXELS * side**2 or max(pixels.shape) > MOST_SIDE:
            pixels = render(image, plan.placement, antialias=rule.antialias)
        pixels, crop, flip = _oriented(pixels, destination, side, plan.turn)
        matrix, hue = _UNCHANGED if plan.distortion is None else color_matrix(plan.distortion, image)
        return Unrendered(pixels, crop, flip, matrix, hue, Canvas(side, rule.antialias, rule.fill)), target


def _oriented(
    pixels: Tensor, destination: View, side: int, turn: Turn
) -> tuple[Tensor, tuple[float, float, float, float], bool]:
    """Turns pixels as far as it takes more than the flip of `render_images`; returns them, their crop, and the flip."""
    height, width = pixels.shape[1:]
    left, right = _window(width, destination.x1, destination.x2, side)
    top, bottom = _window(height, destination.y1, destination.y2, side)
    across, down = turn.across, turn.down
    if turn.swapped:
        pixels, height = pixels.transpose(1, 2), width
        left, right, top, bottom = top, bottom, left, right
        across, down = down, across
    if down:
        pixels = pixels.flip(1)
        top, bottom = height - bottom, height - top
    return pixels, (left, top, right, bottom), across


def _window(length: int, first: int, last: int, side: int) -> tuple[float, float]:
    # Where the output's edges lie if `length` pixels fill its pixels first .. last - 1.
    return length * -first / (last - first), length * (side - first) / (last - first)
