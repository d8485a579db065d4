"""JPEG files of a batch, which the training process decodes on its device, with what is to be done to their pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ssd.data.loading.packed_images import Canvas, Unrendered


class EncodedImage(NamedTuple):
    """A JPEG file in memory."""

    content: Tensor  # [N] uint8
    size: tuple[int, int]  # height and width as stored
    orientation: int  # EXIF orientation to apply; 1: none

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of the decoded image [3, H, W], with the orientation applied."""
        height, width = self.size
        return (3, width, height) if self.orientation >= 5 else (3, height, width)

    def oriented(self, image: Tensor) -> Tensor:
        """Returns the decoded image [3, height, width] with the orientation applied."""
        if self.orientation >= 5:
            image = image.transpose(1, 2)
        if self.orientation in (2, 3, 6, 7):
            image = image.flip(2)
        return image.flip(1) if self.orientation in (3, 4, 7, 8) else image


class Plan(Protocol):
    """What is to be done to the pixels of an image once they are decoded."""

    @property
    def canvas(self) -> Canvas:
        """What the image is rendered to."""

    def grid(self, image: Tensor) -> Tensor | None:
        """Returns the pixels [3, N] of an image [3, H, W] that `unrendered` needs in host memory, if any."""

    def unrendered(self, image: Tensor, grid: Tensor | None) -> Unrendered:
        """Returns what is to be rendered, given the image on any device and its grid in host memory."""


class Undecoded(NamedTuple):
    """One image that is still to be decoded and rendered."""

    image: EncodedImage
    plan: Plan

    @property
    def canvas(self) -> Canvas:
        """What the image is rendered to."""
        return self.plan.canvas


_NOTHING = torch.empty(0, dtype=torch.uint8)


@dataclass(frozen=True)
class EncodedImages:
    """Images of a batch in one buffer: JPEG files, and pixels of those images that a worker has decoded."""

    buffer: Tensor  # [N] uint8: JPEG files, and planes [3, h, w]
    shapes: list[tuple[int, ...]]  # of each image's part of the buffer
    images: list[Undecoded | Unrendered]  # without that part: one buffer crosses to the training process faster

    @classmethod
    def of(cls, images: Sequence[Undecoded | Unrendered]) -> EncodedImages:
        """Copies images into one buffer."""
        parts = [image.image.content if isinstance(image, Undecoded) else image.pixels for image in images]
        shapes = [tuple(part.shape) for part in parts]
        buffer = torch.cat([part.reshape(-1) for part in parts])
        return cls(buffer, shapes, [_with(image, _NOTHING) for image in images])

    def unpacked(self) -> list[Undecoded | Unrendered]:
        """Returns the images, as views of the buffer."""
        lengths = [torch.Size(shape).numel() for shape in self.shapes]
        bounds = pairwise(accumulate(lengths, initial=0))
        parts = [self.buffer[start:end].view(shape) for (start, end), shape in zip(bounds, self.shapes, strict=True)]
        return [_with(image, part) for image, part in zip(self.images, parts, strict=True)]


def _with(image: Undecoded | Unrendered, part: Tensor) -> Undecoded | Unrendered:
    if isinstance(image, Undecoded):
        return image._replace(image=image.image._replace(content=part))
    return image._replace(pixels=part)
