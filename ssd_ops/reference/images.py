"""Crop, resize, flip, colors and normalization of a batch of images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ssd_ops import checks
from ssd_ops.dtypes import floating
from ssd_ops.packing import pack_images
from ssd_ops.reference.arithmetic import divided

MAX_SIDE = 32767  # centers of pixels are exact in float32
DTYPES = ("float32", "float16", "bfloat16")


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
    """Renders image by image; see `ssd_ops.render_images`."""
    crops = floating("crops", crops)
    pixels, offsets, sizes = pack_images(images, offsets, sizes, crops.device)
    color_matrices = None if color_matrices is None else floating("color_matrices", color_matrices)
    hue = None if hue is None else floating("hue", hue)
    size = checks.less_than("size", checks.integer("size", size), 2**15)
    check(pixels, offsets, sizes, crops, flip, color_matrices, hue, size)
    check_derivative(crops, color_matrices, hue)
    for name, values in (("fill", fill), ("mean", mean), ("std", std)):
        _check_three(name, checks.reals(name, values, "3 numbers"), positive=name == "std")
    checks.boolean("antialias", antialias)
    checks.one_of("dtype", checks.dtype_name(dtype), DTYPES)
    crops = crops.float()
    out = crops.new_empty(len(crops), 3, size, size)
    background, center, scale = (crops.new_tensor(list(values)).view(3, 1, 1) for values in (fill, mean, std))
    for b, (offset, (height, width)) in enumerate(zip(offsets.tolist(), sizes.tolist(), strict=True)):
        image = _image(pixels, offset, height, width)
        across = _axis(crops[b, 0], crops[b, 2], image.shape[2], size, antialias)
        down = _axis(crops[b, 1], crops[b, 3], image.shape[1], size, antialias)
        patch = _resized(image, across, down)
        if color_matrices is not None:
            patch = _recolored(patch, color_matrices[b].float())
        patch = _clamped(patch)
        if hue is not None and hue[b].float() != 0:
            patch = _shifted(patch, hue[b].float())
        patch = torch.where(down.shown[:, None] & across.shown, patch, background)
        out[b] = (patch.flip(-1) if flip is not None and bool(flip[b]) else patch).sub(center).div(scale)
    return out.to(dtype)


class _Axis(NamedTuple):
    """The input pixels and weights of the output pixels along one axis of an image."""

    shown: Tensor  # bool [S]: whether the center is in the image and in the crop
    pixels: Tensor  # int64 [S, T]: the pixels
    weights: Tensor  # [S, T]: their weights, 0 after the last


def _axis(low: Tensor, high: Tensor, length: int, size: int, antialias: bool) -> _Axis:
    step = divided(high - low, size)
    reach = torch.where(step > 1, step, 1.0) if antialias else torch.ones_like(step)
    begin = torch.where(low > 0, low.floor(), 0.0)
    end = torch.where(low < high, torch.where(high < length, high.ceil(), float(length)), 0.0)
    center = low + (torch.arange(size, dtype=low.dtype, device=low.device) + 0.5) * step  # [S]
    shown = (center >= begin) & (center < end)
    first = torch.where(shown, torch.maximum((center - reach + 0.5).floor(), begin), 0.0)
    last = torch.where(shown, torch.minimum((center + reach - 0.5).ceil(), end), 0.0)
    pixel = first[:, None] + torch.arange(int((last - first).max()), device=low.device)  # [S, T]
    weights = 1.0 - (pixel + 0.5 - center[:, None]).abs() * (1.0 / reach)
    weights = torch.where((pixel < last[:, None]) & (weights > 0), weights, 0.0)
    return _Axis(shown, pixel.clamp(max=max(length - 1, 0)).long(), weights)


def _image(pixels: Tensor, offset: int, height: int, width: int) -> Tensor:
    """Returns the planes `[3, H, W]`, `[3, 0, 0]` where they are not within `pixels`."""
    inside = 0 <= height <= MAX_SIDE and 0 <= width <= MAX_SIDE
    if not inside or not 0 <= offset <= len(pixels) - 3 * height * width:
        return pixels.new_empty(3, 0, 0)
    return pixels[offset : offset + 3 * height * width].view(3, height, width)


def _resized(image: Tensor, across: _Axis, down: _Axis) -> Tensor:
    rows = _blended(image.float(), across)  # [3, H, S]
    planes = _blended(rows.transpose(1, 2), down).transpose(1, 2)  # [3, S, S]
    ones = torch.ones(max(image.shape), dtype=torch.float32, device=image.device)
    return planes * (1.0 / (_blended(ones, across) * _blended(ones, down)[:, None]))


def _blended(values: Tensor, axis: _Axis) -> Tensor:
    """Returns the weighted sums `[..., S]` of `values [..., L]`, added in the order of the pixels."""
    total = torch.zeros(*values.shape[:-1], len(axis.pixels), dtype=values.dtype, device=values.device)
    for t in range(axis.pixels.shape[1]):
        total = total + axis.weights[:, t] * values[..., axis.pixels[:, t]]
    return total


def _recolored(patch: Tensor, matrix: Tensor) -> Tensor:
    # In this order, because a matrix product would round differently.
    red, green, blue = patch
    return torch.stack([row[0] * red + row[1] * green + row[2] * blue + row[3] for row in matrix])


def _clamped(patch: Tensor) -> Tensor:
    patch = torch.where(patch > 0, patch, 0.0)
    return torch.where(patch < 255, patch, 255.0)


def _shifted(patch: Tensor, turns: Tensor) -> Tensor:
    """Shifts the hue: of six sixths of the circle, each channel is at its maximum for two, at its minimum for two."""
    red, green, blue = patch
    high, low = patch.amax(0), patch.amin(0)
    chroma = high - low
    above = torch.where(high == red, green - blue, torch.where(high == green, blue - red, red - green))
    sixth = torch.where(high == red, 0.0, torch.where(high == green, 2.0, 4.0))
    sixth = sixth + above / torch.where(chroma > 0, chroma, 1.0) + 6.0 * turns
    sixth = sixth - divided(sixth, 6.0).floor() * 6.0
    ramps = torch.stack([(sixth - 3.0).abs() - 1.0, 2.0 - (sixth - 2.0).abs(), 2.0 - (sixth - 4.0).abs()])
    ramps = torch.where(ramps > 0, ramps, 0.0)
    return torch.minimum(torch.where(ramps < 1, ramps, 1.0) * chroma + low, high)


def _check_three(name: str, values: Sequence[float], *, positive: bool) -> None:
    given = f"[{', '.join(f'{v:g}' for v in values)}]"
    if len(values) != 3:
        checks.fail(f"{name} must be 3 numbers, got {given}")
    if not all(math.isfinite(v) for v in values):
        checks.fail(f"{name} must be 3 finite numbers, got {given}")
    if positive and not all(v > 0 for v in values):
        checks.fail(f"{name} must be 3 numbers above 0, got {given}")


def check(
    images: Tensor,  # [N] uint8
    offsets: Tensor,  # [B] int64
    sizes: Tensor,  # [B, 2] int64: height, width
    crops: Tensor,  # [B, 4] xyxy in pixels
    flip: Tensor | None,  # [B] bool
    color_matrices: Tensor | None,  # [B, 3, 4]
    hue: Tensor | None,  # [B]
    size: int,
) -> None:
    """Validates the arguments of the op but its lists of numbers."""
    checks.shape("images", images, "[N]", images.dim() == 1)
    checks.dtype("images", images, torch.uint8)
    checks.boxes("crops", crops, "[B, 4]", 2)
    checks.same_device("crops", crops, "images", images)
    num_images = crops.shape[0]
    for name, tensor, shape, dtype in (
        ("offsets", offsets, (num_images,), torch.int64),
        ("sizes", sizes, (num_images, 2), torch.int64),
        ("flip", flip, (num_images,), torch.bool),
        ("color_matrices", color_matrices, (num_images, 3, 4), None),
        ("hue", hue, (num_images,), None),
    ):
        if tensor is None:
            continue
        checks.shape(name, tensor, str(list(shape)), tensor.shape == shape)
        if dtype is None:
            checks.floating(name, tensor)
        else:
            checks.dtype(name, tensor, dtype)
        checks.same_device(name, tensor, "images", images)
    checks.at_least_one("size", size)
    checks.label_range("sizes", sizes, 0, MAX_SIDE + 1)
    if checks.has_values(images):
        _check_extents(len(images), offsets.tolist(), sizes.tolist())


def check_derivative(crops: Tensor, color_matrices: Tensor | None, hue: Tensor | None) -> None:
    """Raises if an input requires a gradient."""
    for name, tensor in (("crops", crops), ("color_matrices", color_matrices), ("hue", hue)):
        if tensor is not None and checks.has_derivative(tensor):
            checks.fail(f"render_images has no derivative, and {name} requires one: give {name}.detach()")


def _check_extents(total: int, offsets: list[int], sizes: list[list[int]]) -> None:
    for b, (offset, (height, width)) in enumerate(zip(offsets, sizes, strict=True)):
        if not 0 <= offset <= total - 3 * height * width:
            needed = f"3 x {height} x {width} bytes from offsets[{b}] = {offset} on"
            checks.fail(f"images must hold {needed}, got {total} bytes")
