"""Images of a batch as a network takes them: cropped, resized, flipped, distorted and normalized in one launch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ssd_ops import checks
from ssd_ops._autograd import call
from ssd_ops.dtypes import floating
from ssd_ops.packing import pack_images


def render_images(
    images: Tensor | Sequence[Tensor],
    crops: Tensor,
    size: int,
    *,
    offsets: Tensor | None = None,
    sizes: Tensor | None = None,
    flip: Tensor | None = None,
    color_matrices: Tensor | None = None,
    hue: Tensor | None = None,
    antialias: bool = True,
    fill: Sequence[float] = (0.0, 0.0, 0.0),
    mean: Sequence[float] = (0.0, 0.0, 0.0),
    std: Sequence[float] = (1.0, 1.0, 1.0),
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Show a window of every uint8 image at `size x size`, flip it, change its colors and normalize it.

    The window's edges become the output's edges. An output pixel whose center lies outside of the image is `fill`; so a
    window wider than the image zooms out. Any other one is a weighted mean of the image's pixels, the weights falling
    linearly from its center: bilinear, and with `antialias` over as many pixels as an output pixel covers where the window
    shrinks. Only pixels that the window touches take part, as if the image had been cropped to it. All arithmetic is in
    float32 and nothing is rounded to bytes in between; every implementation gives the same bits.

    An image without pixels, and a window that is empty, inverted or not finite, show `fill` alone.

    Args:
        images: A list with one uint8 `[3, H, W]` an image, or one packed uint8 tensor `[N]` with `offsets` and `sizes`.
        crops: `[B, 4]`, xyxy in pixels of each image; may lie beyond it.
        size: Height and width of the output.
        offsets: int64 `[B]`: the planes `[3, H, W]` of image b begin at `images[offsets[b]]`.
        sizes: int64 `[B, 2]`: height and width of each image, at most 32767.
        flip: bool `[B]`: whether left and right change places, after the crop.
        color_matrices: `[B, 3, 4]`: output channel c of image b is `m[:3] @ rgb + m[3]` with `m = color_matrices[b, c]`,
            clamped to 0 .. 255 (NaN to 0). Brightness, contrast, saturation and an order of the channels are such
            matrices, and so is any chain of them. `fill` is left as it is.
        hue: `[B]`, turns of HSV's circle (1 / 3 makes red green) by which hue is shifted after `color_matrices`; the
            maximum and the minimum of a pixel's channels keep their values. 0 leaves every bit; a value that is not
            finite leaves the minimum.
        antialias: Whether shrinking takes a mean of all pixels covered, as PIL does.
        fill: Color of what lies outside of the image, in 0 .. 255.
        mean: Subtracted from each channel, in 0 .. 255.
        std: Each channel is divided by it then.
        dtype: Of the result: float32, float16 or bfloat16.

    Returns:
        `[B, 3, size, size]` in `dtype`.

    Raises:
        RuntimeError: A shape, dtype, device or option does not fit. Values of `offsets` and `sizes` are looked at on the
            CPU only, because looking on a GPU would make the host wait; there, an image that does not lie in `images` has
            no pixels.

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
