"""The header of an image file: format, size and EXIF orientation, without its pixels."""

import os
import re
import warnings
from functools import cache
from pathlib import Path
from typing import BinaryIO, NamedTuple

from PIL import Image

from ssd.common.file_tree import NEEDS_PACKAGE
from ssd.data.faults import DataError

ORIENTATION = 0x0112  # EXIF tag
_QUARTER_TURNS = (5, 6, 7, 8)  # its values that swap height and width
_TIFF_WIDTH, _TIFF_HEIGHT = 256, 257  # tags of TIFF
# Formats that PIL decodes by itself; for others, such as EPS, it would start other programs.
_FORMATS = (
    *("JPEG", "MPO", "PNG", "BMP", "DIB", "WEBP", "TIFF", "GIF", "PPM", "JPEG2000", "AVIF", "TGA"),
    *("HEIF", "ICO", "PCX", "QOI"),  # HEIF: of pillow-heif, where the user's program has registered it
)

_HEIC = (b"heic", b"heix", b"hevc", b"mif1", b"msf1")


class Header(NamedTuple):
    """What the first bytes of an image file say."""

    height: int  # as stored
    width: int
    format: str  # PIL's name, such as "JPEG"
    orientation: int  # EXIF: 1 is upright, 5 to 8 swap height and width

    def size(self, oriented: bool) -> tuple[int, int]:
        """Returns (height, width), as stored or as the EXIF orientation turns the image."""
        swaps = oriented and self.orientation in _QUARTER_TURNS
        return (self.width, self.height) if swaps else (self.height, self.width)


def header_of(file: BinaryIO, path: str | os.PathLike[str], max_pixels: int | None = None) -> Header:
    """Reads the header of an open image file.

    Args:
        file: Image file, at its start.
        path: Its path, for errors.
        max_pixels: Max pixels of the image; None is PIL's limit.

    Raises:
        DataError: The header is not that of an image, or the image is too large.
    """
    try:
        with open_image(file) as image:
            height, width = _stored_size(image)
            if max_pixels is not None and height * width > max_pixels:
                raise DataError(f"the image has {width} x {height} pixels, more than {max_pixels} in total")
            orientation = _exif(image, file).get(ORIENTATION, 1)
            return Header(height, width, str(image.format), orientation if orientation in range(9) else 1)
    except DataError:
        raise
    except Exception as error:  # PIL's plugins raise nearly anything on broken input
        other = None if Path(path).suffix.lower() in NEEDS_PACKAGE else _other_kind(file)
        raise DataError(other or reason_of(error, path)) from None


def _other_kind(file: BinaryIO) -> str | None:
    """Returns what a file is that PIL cannot read, if its first bytes say it."""
    file.seek(0)
    start = file.read(64).lstrip().lower()
    if start.startswith(b"version https://git-lfs"):
        return "the file is a pointer of Git LFS; git lfs pull downloads the image"
    if start.startswith((b"<!doctype html", b"<html")):
        return "the file is a web page; download the image again"
    if start[4:8] == b"ftyp" and start[8:12] in _HEIC:
        return "PIL cannot read HEIC; convert the file to JPEG or PNG (pillow-heif reads it)"
    return None


def _exif(image: Image.Image, file: BinaryIO) -> Image.Exif:
    # PIL decodes a PNG for its EXIF data, which may follow the pixels.
    if image.format == "PNG" and "exif" not in image.info and not _ends_with_text(file):
        return Image.Image.getexif(image)
    return image.getexif()


def _ends_with_text(png: BinaryIO) -> bool:
    """Returns whether a PNG file has chunks after its pixels that may hold EXIF data."""
    position, follows = png.tell(), False
    png.seek(8)
    while len(head := png.read(8)) == 8:
        follows = follows or head[4:] == b"IDAT"
        if follows and head[4:] in (b"eXIf", b"tEXt", b"zTXt", b"iTXt"):
            break
        png.seek(int.from_bytes(head[:4], "big") + 4, os.SEEK_CUR)
    png.seek(position)
    return len(head) == 8


def _stored_size(image: Image.Image) -> tuple[int, int]:
    # For a TIFF file, unlike all other formats, PIL reports the size after EXIF orientation.
    tags = getattr(image, "tag_v2", {})
    return (tags[_TIFF_HEIGHT], tags[_TIFF_WIDTH]) if image.format == "TIFF" else (image.height, image.width)


def open_image(file: BinaryIO) -> Image.Image:
    """Opens an image without decoding it; PIL raises if it has too many pixels, as torchvision's decoder does not."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        return Image.open(file, formats=_formats())


@cache
def _formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def reason_of(error: Exception, path: str | os.PathLike[str]) -> str:
    """Returns a message for the user about an exception of PIL."""
    if isinstance(error, Image.UnidentifiedImageError):
        package = NEEDS_PACKAGE.get(Path(path).suffix.lower())
        if package is not None:
            return f"PIL cannot read {Path(path).suffix.lower()}; convert it to JPEG or PNG ({package} reads it)"
        return "the file is not an image that PIL can read"
    if isinstance(error, Image.DecompressionBombError):
        pixels, limit = re.findall(r"\d+", str(error))[:2]
        return f"the image has {pixels} pixels, more than {limit}; cut it into parts"
    return f"{type(error).__name__}: {error}"
