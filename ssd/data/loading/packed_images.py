"""Decoded images of different sizes, packed into one buffer for the device that renders them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

import ssd_ops


class Canvas(NamedTuple):
    """What all images of a batch are rendered to; the arguments of `ssd_ops.render_images` of these names."""

    side: int  # S
    antialias: bool
    fill: tuple[int, int, int]


class Unrendered(NamedTuple):
    """One image that is still to be rendered."""

    pixels: Tensor  # [3, h, w] uint8, RGB
    crop: tuple[float, float, float, float]  # xyxy in `pixels`, what the output shows
    flip: bool  # horizontal flip of the output
    color_matrix: np.ndarray  # [3, 4] float32, affine in RGB
    hue: float  # hue shift after that, in turns
    canvas: Canvas


@dataclass(frozen=True)
class PackedImages:
    """B images that are still to be rendered, by `ssd_ops.render_images` in one launch."""

    pixels: Tensor  # [N] uint8: planes [3, h, w] of all images
    offsets: Tensor  # [B] int64: image b begins at pixels[offsets[b]]
    sizes: Tensor  # [B, 2] int64: h, w
    crops: Tensor  # [B, 4] float32, xyxy in pixels of each image
    flip: Tensor  # [B] bool
    color_matrices: Tensor  # [B, 3, 4] float32
    hue: Tensor  # [B] float32
    canvas: Canvas

    @classmethod
    def of(cls, images: Sequence[Unrendered]) -> "PackedImages":
        """Packs images of one canvas, at least one; the pixels stay on their device, everything else is on the CPU."""
        bounds = np.cumsum([0] + [image.pixels.numel() for image in images])
        pixels = torch.empty(int(bounds[-1]), dtype=torch.uint8, device=images[0].pixels.device)
        for image, start, end in zip(images, bounds[:-1], bounds[1:], strict=True):
            pixels[start:end].view(image.pixels.shape).copy_(image.pixels)
        return cls(
            pixels=pixels,
            offsets=torch.from_numpy(bounds[:-1]),
            sizes=torch.tensor([image.pixels.shape[1:] for image in images]),
            crops=torch.tensor([image.crop for image in images]),
            flip=torch.tensor([image.flip for image in images]),
            color_matrices=torch.from_numpy(np.stack([image.color_matrix for image in images])),
            hue=torch.tensor([image.hue for image in images]),
            canvas=images[0].canvas,
        )

    @property
    def device(self) -> torch.device:
        """Where the images are."""
        return self.pixels.device

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> "PackedImages":
        """Returns the images on a device."""
        tensors = {name: t.to(device, non_blocking=non_blocking) for name, t in self._tensors().items()}
        return replace(self, **tensors)  # type: ignore[arg-type]

    def pin_memory(self) -> "PackedImages":
        """Returns the images in pinned memory."""
        return replace(self, **{name: t.pin_memory() for name, t in self._tensors().items()})  # type: ignore[arg-type]

    def record_stream(self, stream: torch.cuda.Stream) -> None:
        """Keeps the memory of the images, which were packed on another stream, until this one has used them."""
        for tensor in self._tensors().values():
            tensor.record_stream(stream)

    def _tensors(self) -> dict[str, Tensor]:
        return {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}

    def render(
        self,
        mean: Sequence[float] = (0.0, 0.0, 0.0),
        std: Sequence[float] = (1.0, 1.0, 1.0),
        *,
        bgr: bool = False,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """Returns the images `[B, 3, S, S]`, on the device where they are, without synchronization.

        Args:
            mean: In 0 .. 255, subtracted from each channel, in the order of the output.
            std: In 0 .. 255, by which each channel is divided then.
            bgr: Blue comes first in the output.
            dtype: Type of the output: float32, float16 or bfloat16.
        """
        side, antialias, fill = self.canvas
        return ssd_ops.render_images(
            self.pixels,
            self.crops,
            side,
            offsets=self.offsets,
            sizes=self.sizes,
            flip=self.flip,
            color_matrices=self.color_matrices.flip(1) if bgr else self.color_matrices,
            hue=-self.hue if bgr else self.hue,  # from red to blue to green
            antialias=antialias,
            fill=fill[::-1] if bgr else fill,
            mean=mean,
            std=std,
            dtype=dtype,
        )
