"""Sources of a detector: images in files and memory, folders, patterns, videos, tar files, and iterables of these."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ssd.common.errors import DataError
from ssd.common.file_tree import IMAGE_SUFFIXES
from ssd.data.loading.images import decode_image, pil_to_rgb, read_image
from ssd.inference.source_files import find_files, is_tar, is_video, names_many, public_name, stream_name
from ssd.inference.video import Frame, frames_of

_MAX_BYTES = 1 << 30  # of an image in a tar file
_MAX_MEMBER = 1 << 36  # bytes of a file in a tar file: tarfile skips a claimed size in small steps, even at the end
ImageLike: TypeAlias = "str | os.PathLike[str] | Image.Image | np.ndarray | Tensor"


@dataclass(frozen=True)
class ImageFile:
    """An image file; `data` is its content if it is in a tar file, whose path is in front of its own."""

    file: Path
    data: bytes | None = None


@dataclass(frozen=True)
class Unreadable:
    """A video or tar file that cannot be read, or not to its end."""

    file: Path | str
    error: str


Item: TypeAlias = "ImageLike | Frame | ImageFile | Unreadable"
Source: TypeAlias = "int | Item | Iterable[Item]"


@dataclass(frozen=True)
class Loaded:
    """An image and where it is from; `image`, uint8 RGB `[3, H, W]`, is None if it cannot be read for `error`."""

    image: Tensor | None
    file: Path | str | None = None
    error: str | None = None
    frame: int | None = None
    time: float | None = None


def is_one_image(source: Source) -> bool:
    """Returns whether a source is a single image rather than a folder, a video, a batch or another source of many."""
    if isinstance(source, (str, os.PathLike)):
        return not names_many(source)
    if isinstance(source, (np.ndarray, Tensor)):
        return source.ndim <= 3
    return isinstance(source, Image.Image)


def images_of(source: Source) -> Iterator[Item]:
    """Yields the images of a source one by one, without reading image files.

    Args:
        source: One image; a folder, which is searched recursively; a glob pattern; a text file with one path per line;
            a video file or stream; a tar file; the number of a camera; a batch `[B, ...]` of arrays or tensors; or an
            iterable of any of these but cameras, which may be infinite.

    Raises:
        DataError: A folder contains no images or videos, or a pattern matches none.
        TypeError: The source has another type.
    """
    if isinstance(source, (str, os.PathLike)):
        for name in find_files(source):
            yield from _in_file(name)
    elif isinstance(source, int):
        yield from _in_file(source)
    elif is_one_image(source) or isinstance(source, (Frame, ImageFile, Unreadable)):
        yield source  # type: ignore[misc]
    elif isinstance(source, Iterable) and not isinstance(source, (bytes, bytearray, Mapping)):
        for item in source:
            if isinstance(item, int):
                raise TypeError(
                    "the number of a camera must be the whole source; name a camera among others /dev/videoN"
                )
            yield from images_of(item)
    else:
        hint = (
            "; open the content of a file by PIL.Image.open(io.BytesIO(content))" if isinstance(source, bytes) else ""
        )
        kind = type(source).__name__
        raise TypeError(f"source must be an image, a path or an iterable of them, got {kind}{hint}")


def _in_file(name: str | int) -> Iterator[Item]:
    stream = stream_name(name)
    if stream is None and not is_tar(str(name)) and not is_video(str(name)):
        yield ImageFile(Path(str(name)))
        return
    try:
        yield from _in_tar(str(name)) if stream is None and is_tar(str(name)) else frames_of(name)
    except DataError as error:
        yield Unreadable(public_name(stream) if stream else Path(str(name)), str(error))


class _Member(tarfile.TarInfo):
    """A member of a tar file. `tarfile` takes a damaged or missing header for the end of the file; here it is an error."""

    @classmethod
    def fromtarfile(cls, tar: tarfile.TarFile) -> _Member:
        """Reads the next header."""
        try:
            return super().fromtarfile(tar)
        except tarfile.HeaderError as error:
            if tar.offset == 0 or type(error).__name__ == "EOFHeaderError":
                raise  # tarfile reports an error at the start; the end of the file is not an error
            raise tarfile.ReadError(f"it is cut off or damaged after byte {tar.offset}") from error


def _in_tar(name: str) -> Iterator[ImageFile | Unreadable]:
    is_empty = True
    try:
        with tarfile.open(name, "r|*", tarinfo=_Member) as tar:
            for member in tar:
                tar.members = []  # type: ignore[attr-defined]  # else it keeps a record of each member
                if member.size > _MAX_MEMBER:
                    raise tarfile.ReadError(f"{member.name} has {member.size} bytes")
                if member.isdir() or not _is_visible_image(member.name):
                    continue
                is_empty, path = False, Path(name) / member.name
                if not member.isreg():
                    yield Unreadable(path, "it is a link or a device in a tar file, which is not followed")
                elif member.size > _MAX_BYTES:
                    yield Unreadable(path, f"the file has {member.size} bytes, more than {_MAX_BYTES}")
                else:
                    file = tar.extractfile(member)
                    assert file is not None  # it is a regular file
                    yield ImageFile(path, file.read())
    except (OSError, EOFError, tarfile.TarError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"the tar file cannot be read to its end: {reason}") from None
    if is_empty:
        raise DataError("the tar file contains no images")


def _is_visible_image(name: str) -> bool:
    # As in folders, hidden files do not count: tar on a Mac writes ._a.jpg with the attributes of a.jpg.
    is_hidden = any((part[:1] == "." and part.strip(".")) or part == "__MACOSX" for part in name.split("/"))
    return name.lower().endswith(IMAGE_SUFFIXES) and not is_hidden


def load_item(item: Item, apply_exif: bool) -> Loaded:
    """Reads an item of `images_of`.

    Raises:
        DataError: An image that is not in a file is invalid.
    """
    if isinstance(item, Frame):
        return Loaded(item.image, item.file, frame=item.index, time=item.time)
    if isinstance(item, Unreadable):
        return Loaded(None, item.file, item.error)
    if not isinstance(item, ImageFile):
        return Loaded(read(item, apply_exif))
    try:
        if item.data is None:
            return Loaded(read_image(item.file, apply_exif=apply_exif), item.file)
        raw = np.frombuffer(bytearray(item.data), np.uint8)
        return Loaded(decode_image(raw, item.file, apply_exif=apply_exif), item.file)
    except DataError as error:
        return Loaded(None, item.file, str(error))


def read(image: object, apply_exif: bool) -> Tensor:
    """Converts an image in memory.

    Args:
        image: A PIL image of any mode; a uint8 array `[H, W]`, `[H, W, 1]`, `[H, W, 3]` or `[H, W, 4]` in RGB
            order; or a tensor `[3, H, W]` or `[1, H, W]`, uint8 or floating in 0..1.
        apply_exif: Whether to apply the EXIF orientation of PIL images.

    Returns:
        uint8 RGB `[3, H, W]` on the CPU.

    Raises:
        DataError: The image cannot be decoded, or the array has another shape or dtype.
    """
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
            raise DataError("a floating tensor must be in 0..1; divide an image of 0..255 by 255, or pass uint8")
        image = (image.float() * 255).round().to(torch.uint8)
    return image.expand(3, -1, -1)
