"""Whole images of any sizes in one buffer, to be copied to a device at once and resized there to the network's input."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

import torch
from torch import Tensor

import ssd_ops

_OFFSET, _SIZE, _WINDOW = 8, 16, 16  # bytes of an image's entries: int64, two int64, four float32


@dataclass(frozen=True)
class WholeImages:
    """Images still to be resized, by `ssd_ops.render_images` in one launch."""

    buffer: Tensor  # [N] uint8: offsets of all images, their sizes, their crops, and then their planes [3, h, w]
    count: int  # number of images in the buffer
    first: int  # index of the first image of this object
    last: int  # end of the range
    side: int
    antialias: bool

    @classmethod
    def of(cls, images: Sequence[Tensor], side: int, antialias: bool, *, pin: bool = False) -> WholeImages:
        """Copies images into one buffer on their device.

        Args:
            images: At least one uint8 [3, h, w], all on one device.
            side: Side of the network's input.
            antialias: Whether the resize antialiases.
            pin: Whether a buffer on the CPU is in pinned memory.
        """
        ends = [0, *accumulate(image.numel() for image in images)]
        sizes = [(image.shape[1], image.shape[2]) for image in images]
        head = torch.empty(len(images) * (_OFFSET + _SIZE + _WINDOW), dtype=torch.uint8)
        for part, value in zip(
            _split(head, len(images)),
            (torch.tensor(ends[:-1]), torch.tensor(sizes), torch.tensor([(0.0, 0.0, w, h) for h, w in sizes])),
            strict=True,
        ):
            part.copy_(value)
        device = images[0].device
        pinned = pin and device.type == "cpu"
        buffer = torch.empty(len(head) + ends[-1], dtype=torch.uint8, device=device, pin_memory=pinned)
        buffer[: len(head)].copy_(head)
        pixels = buffer[len(head) :]
        for image, start, end in zip(images, ends[:-1], ends[1:], strict=True):
            pixels[start:end].view(image.shape).copy_(image)
        return cls(buffer, len(images), 0, len(images), side, antialias)

    def __len__(self) -> int:
        return self.last - self.first

    @property
    def device(self) -> torch.device:
        """Device of the images."""
        return self.buffer.device

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> WholeImages:
        """Returns the images on a device."""
        return replace(self, buffer=self.buffer.to(device, non_blocking=non_blocking))

    def part(self, first: int, last: int) -> WholeImages:
        """Returns images first .. last - 1, in the same buffer."""
        return replace(self, first=self.first + first, last=self.first + last)

    def render(
        self, mean: Sequence[float] = (0.0, 0.0, 0.0), std: Sequence[float] = (1.0, 1.0, 1.0), *, bgr: bool = False
    ) -> Tensor:
        """Returns the images float32 [B, 3, S, S], on the device where they are, without synchronization.

        Args:
            mean: In 0 .. 255, subtracted from each channel, in the order of the output.
            std: In 0 .. 255, by which each channel is divided then.
            bgr: Blue comes first in the output.
        """
        parts = _split(self.buffer[: self.count * (_OFFSET + _SIZE + _WINDOW)], self.count)
        offsets, sizes, crops = (part[self.first : self.last] for part in parts)
        images = ssd_ops.render_images(
            self.buffer[self.count * (_OFFSET + _SIZE + _WINDOW) :],
            crops,
            self.side,
            offsets=offsets,
            sizes=sizes,
            antialias=self.antialias,
            mean=mean[::-1] if bgr else mean,
            std=std[::-1] if bgr else std,
        )
        return images.flip(1) if bgr else images


def _split(head: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Offsets int64 [B], sizes int64 [B, 2] and crops float32 [B, 4] as views of their bytes."""
    offsets, sizes, crops = head.split([count * _OFFSET, count * _SIZE, count * _WINDOW])
    return (
        offsets.view(torch.int64),
        sizes.view(torch.int64).view(count, 2),
        crops.view(torch.float32).view(count, 4),
    )
