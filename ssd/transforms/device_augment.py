"""Augmentation with rendering left to the training device: draws choices and boxes as `Augment` does."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from ssd.data.dataset import Target
from ssd.data.loading.encoded_images import EncodedImage, Undecoded
from ssd.data.loading.packed_images import Canvas, Unrendered
from ssd.transforms.augment import Augment, Orientation, PixelSteps
from ssd.transforms.color_matrix import color_matrix, needs_grid
from ssd.transforms.geometry import View, render
from ssd.transforms.mixing import Decoded
from ssd.transforms.photometric import pivot_grid

MAX_PIXEL_RATIO = 16  # crop pixels per output pixel
MAX_SIDE = 32767  # the limit of render_images
_UNCHANGED = np.eye(3, 4, dtype=np.float32), 0.0


@dataclass(frozen=True)
class Deferred:
    """Augments the target as `Augment` does, and returns the cropped pixels as decoded with the steps still to be done.

    `ssd_ops.render_images` does these steps. Crop, size, fill and flips are those of `Augment`, which rounds its pixels
    to bytes; `color_matrix` describes how colors differ. A crop with more than 16 times the pixels of the output is
    resized here, because passing it on would take longer. An image that is still encoded is passed on as it is.
    """

    augment: Augment

    def mix(self, image: Tensor, target: Target, draw: Callable[[], Decoded | None]) -> tuple[Tensor, Target]:
        """Returns the sample mixed with random samples of the data set, as `Augment.mix`."""
        return self.augment.mix(image, target, draw)

    def accepts_encoded(self, mixes: bool) -> bool:
        """Returns whether images may be JPEG files still to be decoded, in epochs in which samples are mixed or not."""
        rule = self.augment.rule
        return not rule.shortest and not (mixes and (rule.mosaic or rule.copy_paste))

    def __call__(self, image: Tensor | EncodedImage, target: Target) -> tuple[Unrendered | Undecoded, Target]:
        """Returns the image still to be rendered, and to be decoded if it was not, and the final target."""
        rule = self.augment.rule
        canvas = Canvas(self.augment.side, rule.antialias, rule.fill)
        if isinstance(image, EncodedImage):
            target, steps = self.augment.draw_for(image.shape[1:], target)
            return Undecoded(image, RenderPlan(steps, canvas)), target
        image, target, steps = self.augment.draw(image, target)
        plan = RenderPlan(steps, canvas)
        return plan.unrendered(image, plan.grid(image)), target


@dataclass(frozen=True)
class RenderPlan:
    """The drawn steps of one image, which the training process does once it has decoded it."""

    steps: PixelSteps
    canvas: Canvas

    def grid(self, image: Tensor) -> Tensor | None:
        """Returns the pixels [3, N] that decide on the colors, if the drawn steps need any."""
        distortion = self.steps.distortion
        return None if distortion is None or not needs_grid(distortion) else pivot_grid(image)

    def unrendered(self, image: Tensor, grid: Tensor | None) -> Unrendered:
        """Returns the cropped pixels on the device of the image, and what `ssd_ops.render_images` does to them."""
        placement, distortion, orientation = self.steps
        (x1, y1, x2, y2), side = placement.source, self.canvas.side
        pixels = image[:, y1:y2, x1:x2]
        if pixels[0].numel() > MAX_PIXEL_RATIO * side**2 or max(pixels.shape) > MAX_SIDE:
            pixels = render(image, placement, antialias=self.canvas.antialias)
        pixels, crop, flip = _orient(pixels, placement.destination, side, orientation)
        matrix, hue = _UNCHANGED if distortion is None else color_matrix(distortion, grid)
        return Unrendered(pixels, crop, flip, matrix, hue, self.canvas)


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
