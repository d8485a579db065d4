"""Augmentation with rendering left to the training device: draws choices and boxes as `Augment` does."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from ssd.data.dataset import Target
from ssd.data.loading.packed_images import Canvas, Unrendered
from ssd.transforms.augment import Augment, Orientation
from ssd.transforms.color_matrix import color_matrix
from ssd.transforms.geometry import View, render
from ssd.transforms.mixing import Decoded

MAX_PIXEL_RATIO = 16  # crop pixels per output pixel
MAX_SIDE = 32767  # the limit of render_images
_UNCHANGED = np.eye(3, 4, dtype=np.float32), 0.0


@dataclass(frozen=True)
class Deferred:
    """Augments the target as `Augment` does, and returns the cropped pixels as decoded with the steps still to be done.

    `ssd_ops.render_images` does these steps. Crop, size, fill and flips are those of `Augment`, which rounds its pixels
    to bytes; `color_matrix` describes how colors differ. A crop with more than 16 times the pixels of the output is
    resized here, because passing it on would take longer.
    """

    augment: Augment

    def mix(self, image: Tensor, target: Target, draw: Callable[[], Decoded | None]) -> tuple[Tensor, Target]:
        """Returns the sample mixed with random samples of the data set, as `Augment.mix`."""
        return self.augment.mix(image, target, draw)

    def __call__(self, image: Tensor, target: Target) -> tuple[Unrendered, Target]:
        """Returns the image still to be rendered, and the final target."""
        side, rule = self.augment.side, self.augment.rule
        image, target, steps = self.augment.draw(image, target)
        (x1, y1, x2, y2), destination = steps.placement.source, steps.placement.destination
        pixels = image[:, y1:y2, x1:x2]
        if pixels[0].numel() > MAX_PIXEL_RATIO * side**2 or max(pixels.shape) > MAX_SIDE:
            pixels = render(image, steps.placement, antialias=rule.antialias)
        pixels, crop, flip = _orient(pixels, destination, side, steps.orientation)
        matrix, hue = _UNCHANGED if steps.distortion is None else color_matrix(steps.distortion, image)
        return Unrendered(pixels, crop, flip, matrix, hue, Canvas(side, rule.antialias, rule.fill)), target


def _orient(
    pixels: Tensor, destination: View, side: int, orientation: Orientation
) -> tuple[Tensor, tuple[float, float, float, float], bool]:
    """Applies what `render_images` cannot (all but a horizontal flip); returns pixels, crop, and whether to flip."""
    height, width = pixels.shape[1:]
    left, right = _window(width, destination.x1, destination.x2, side)
    top, bottom = _window(height, destination.y1, destination.y2, side)
    hflip, vflip = orientation.hflip, orientation.vflip
    if orientation.transpose:
        pixels, height = pixels.transpose(1, 2), width
        left, right, top, bottom = top, bottom, left, right
        hflip, vflip = vflip, hflip
    if vflip:
        pixels = pixels.flip(1)
        top, bottom = height - bottom, height - top
    return pixels, (left, top, right, bottom), hflip


def _window(length: int, first: int, last: int, side: int) -> tuple[float, float]:
    # The output's edges in source pixels, if `length` source pixels fill output pixels first .. last - 1.
    return length * -first / (last - first), length * (side - first) / (last - first)
