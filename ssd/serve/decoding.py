"""Decodes the images of requests, within limits that are checked before a pixel is decoded."""

from __future__ import annotations

import base64
import binascii
import io

import numpy as np
from torch import Tensor

from ssd.common.errors import DataError
from ssd.data.loading.image_header import header_of
from ssd.data.loading.images import decode_image

_MAX_SCANS = 100  # scans of a JPEG; a progressive one has about 10, and each costs the time of a whole image
# An icon's header does not have the size of the image in it.
_REJECTED = ("ICO",)


def decode(content: bytes | str, max_pixels: int, apply_exif: bool) -> Tensor:
    """Decodes one image of a request.

    Args:
        content: An image file, or one in base64, possibly as a data URL.
        max_pixels: Max pixels of the image.
        apply_exif: Whether to apply the EXIF orientation.

    Returns:
        uint8 RGB `[3, H, W]`.

    Raises:
        DataError: It is not an image, or exceeds a limit.
    """
    data = _from_base64(content) if isinstance(content, str) else content
    if not data:
        raise DataError("the file is empty")
    header = header_of(io.BytesIO(data), "", max_pixels)
    if header.format in _REJECTED:
        raise DataError(f"images in the format {header.format} are not accepted; convert it to JPEG or PNG")
    # The marker of a scan cannot occur in compressed pixels, where a zero follows each 0xff.
    if header.format in ("JPEG", "MPO") and (scans := data.count(b"\xff\xda")) > _MAX_SCANS:
        raise DataError(f"the JPEG has {scans} scans, more than {_MAX_SCANS}")
    raw = np.frombuffer(bytearray(data), np.uint8)  # torch wants memory that it may write to
    return decode_image(raw, "", apply_exif=apply_exif)


def _from_base64(text: str) -> bytes:
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        return base64.b64decode("".join(text.split()), validate=True)  # base64 breaks its lines
    except (binascii.Error, ValueError):
        raise DataError("the image is not valid base64") from None
