"""Image sources of a detector: files, folders, glob patterns, PIL images, arrays, tensors, and iterables of these."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ssd.data.loading.images import pil_to_rgb, read_image
from ssd.errors import DataError
from ssd.file_tree import find_images

ImageLike: TypeAlias = "str | os.PathLike[str] | Image.Image | np.ndarray | Tensor"
Source: TypeAlias = "ImageLike | Iterable[ImageLike]"


def is_one_image(source: Source) -> bool:
    """Returns whether a source is a single image rather than a folder, a pattern, a batch or an iterable."""
    if isinstance(source, (str, os.PathLike)):
        path = os.fspath(source)
        return not os.path.isdir(path) and (os.path.exists(path) or not glob.has_magic(path))
    if isinstance(source, (np.ndarray, Tensor)):
        return source.ndim <= 3
    return isinstance(source, Image.Image)


def images_of(source: Source) -> Iterator[ImageLike]:
    """Yields the images of a source one by one, without reading files.

    Args:
        source: One image; a folder, which is searched recursively; a glob pattern; a batch `[B, ...]` of arrays or
            tensors; or an iterable of images, folders and patterns, which may be infinite.

    Raises:
        DataError: A folder contains no images, or a pattern matches none.
        TypeError: The source has another type.
    """
    if isinstance(source, (str, os.PathLike)):
        yield from find_images(Path(source))
    elif is_one_image(source):
        yield source  # type: ignore[misc]
    elif isinstance(source, Iterable):
        for item in source:
            yield from images_of(item)
    else:
        raise TypeError(f"source must be an image, a path or an iterable of them, got {type(source).__name__}")


def read(image: ImageLike, apply_exif: bool) -> Tensor:
    """Reads or converts one image.

    Args:
        image: A file; a PIL image of any mode; a uint8 array `[H, W]`, `[H, W, 1]`, `[H, W, 3]` or `[H, W, 4]` in RGB
            order; or a tensor `[3, H, W]` or `[1, H, W]`, uint8 or floating in 0..1.
        apply_exif: Whether to apply the EXIF orientation of files and PIL images.

    Returns:
        uint8 RGB `[3, H, W]` on the CPU.

    Raises:
        DataError: The file cannot be read, or the array has another shape or dtype.
    """
    if isinstance(image, (str, os.PathLike)):
        return read_image(image, apply_exif=apply_exif)
    if isinstance(image, Image.Image):
        try:
            return torch.from_numpy(pil_to_rgb(image, apply_exif=apply_exif)).permute(2, 0, 1)
        except (OSError, SyntaxError, ValueError) as error:  # PIL decodes lazily
            raise DataError(f"PIL cannot decode it: {error}") from None
    if isinstance(image, np.ndarray):
        return _of_array(image)
    if isinstance(image, Tensor):
        return _of_tensor(image)
    raise DataError(f"an image must be a path, a PIL image, an array or a tensor, got {type(image).__name__}")


def _of_array(image: np.ndarray) -> Tensor:
    channels = image[:, :, None] if image.ndim == 2 else image
    if image.dtype != np.uint8 or channels.ndim != 3 or channels.shape[2] not in (1, 3, 4) or not channels.size:
        raise DataError(
            f"an array must be uint8 [H, W], [H, W, 1], [H, W, 3] or [H, W, 4] in RGB order, got {image.dtype} "
            f"{list(image.shape)}"
        )
    return torch.from_numpy(np.array(channels[:, :, :3], order="C")).permute(2, 0, 1).expand(3, -1, -1)


def _of_tensor(image: Tensor) -> Tensor:
    fits = image.dim() == 3 and image.shape[0] in (1, 3) and image.numel() > 0
    if not fits or not (image.dtype == torch.uint8 or image.is_floating_point()):
        raise DataError(
            f"a tensor must be [3, H, W] or [1, H, W], uint8 or floating in 0..1, got {image.dtype} {list(image.shape)}"
        )
    image = image.detach().cpu()
    if image.is_floating_point():
        if not bool(((image >= 0) & (image <= 1)).all()):
            raise DataError("a floating tensor must lie in 0..1; divide an image of 0..255 by 255, or pass uint8")
        image = (image.float() * 255).round().to(torch.uint8)
    return image.expand(3, -1, -1)
