"""Augmentation and normalization of a batch of images, in one launch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ssd_ops import checks
from ssd_ops._autograd import call
from ssd_ops.dtypes import floating
from ssd_ops.packing import pack_images


def render_images(
    images: Tensor | Sequence[Tensor],  # [N] uint8, or one [3, H, W] per image
    crops: Tensor,  # [B, 4] xyxy in pixels
    size: int,
    *,
    offsets: Tensor | None = None,  # [B] int64
    sizes: Tensor | None = None,  # [B, 2] int64: height, width
    flip: Tensor | None = None,  # [B] bool
    color_matrices: Tensor | None = None,  # [B, 3, 4]
    hue: Tensor | None = None,  # [B]
    antialias: bool = True,
    fill: Sequence[float] = (0.0, 0.0, 0.0),
    mean: Sequence[float] = (0.0, 0.0, 0.0),
    std: Sequence[float] = (1.0, 1.0, 1.0),
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Crops every uint8 image, resizes it to `size x size`, flips it, changes its colors and normalizes it.

    The edges of the crop become the edges of the output. An output pixel whose center is outside of the image is `fill`,
    so a crop larger than the image zooms out. Any other one is a weighted mean of the image's pixels, with weights that
    decrease linearly with the distance from its center: bilinear, and with `antialias` over as many pixels as an output
    pixel covers where the crop shrinks. Only pixels that the crop overlaps are read, as if the image was cropped first. All
    arithmetic is in float32 without intermediate rounding to bytes; every implementation gives the same bits.

    An image without pixels, and a crop that is empty, inverted or not finite, gives `fill` only.

    Args:
        images: A list with one uint8 `[3, H, W]` per image, or one packed uint8 tensor `[N]` with `offsets` and `sizes`.
        crops: `[B, 4]`, xyxy in pixels of each image; may extend beyond it.
        size: Height and width of the output.
        offsets: int64 `[B]`: the planes `[3, H, W]` of image b begin at `images[offsets[b]]`.
        sizes: int64 `[B, 2]`: height and width of each image, at most 32767.
        flip: bool `[B]`: whether to mirror left and right, after the crop.
        color_matrices: `[B, 3, 4]`: output channel c of image b is `m[:3] @ rgb + m[3]` with `m = color_matrices[b, c]`,
            clamped to 0 .. 255 (NaN to 0). Brightness, contrast, saturation and an order of the channels are such
            matrices, and so is any chain of them. `fill` is unchanged.
        hue: `[B]`, turns of HSV's circle (1 / 3 makes red green) by which hue is shifted after `color_matrices`; the
            maximum and the minimum of a pixel's channels keep their values. 0 leaves every bit; a value that is not
            finite leaves the minimum.
        antialias: Whether shrinking averages all covered pixels, as PIL does.
        fill: Color outside of the image, in 0 .. 255.
        mean: Mean that is subtracted from each channel, in 0 .. 255.
        std: Standard deviation by which each channel is divided after that.
        dtype: Dtype of the result: float32, float16 or bfloat16.

    Returns:
        `[B, 3, size, size]` in `dtype`.

    Raises:
        RuntimeError: Invalid shape, dtype, device or option. Values of `offsets` and `sizes` are validated on the CPU
            only, because that would synchronize with a GPU; there, an image that is not within `images` has no pixels.

    Source: `resized_crop` and `adjust_hue` of torchvision, without rounding to bytes.
    """
    crops = floating("crops", crops)
    pixels, offsets, sizes = pack_images(images, offsets, sizes, crops.device)
    three = [checks.reals(*named, "3 numbers") for named in (("fill", fill), ("mean", mean), ("std", std))]
    for argument, value in (("offsets", offsets), ("sizes", sizes), ("flip", flip)):
        if value is not None:
            checks.tensor(argument, value)
    color_matrices = None if color_matrices is None else floating("color_matrices", color_matrices)
    hue = None if hue is None else floating("hue", hue)
    size = checks.less_than("size", checks.integer("size", size), 2**15)
    antialias = checks.boolean("antialias", antialias)
    name = checks.dtype_name(dtype)
    out: Tensor = call(
        "render_images", pixels, offsets, sizes, crops, flip, color_matrices, hue, size, antialias, *three, name
    )
    return out
