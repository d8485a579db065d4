"""Reading one image file into an RGB tensor.

JPEG files go through torchvision's decoder, which is about twice as fast as PIL and gives the same pixels; every other
format, and a JPEG that is not RGB or gray, goes through PIL. EXIF orientation is ignored unless asked for: the tools of
VOC and COCO ignore it too, so their boxes are those of the pixels as stored.
"""

import io
import os
import warnings

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from ssd.data.faults import DataError

try:
    from torchvision.io import decode_jpeg
except ImportError:  # deprecated since torchvision 0.29; where it is gone, PIL reads the same pixels, only slower
    decode_jpeg = None

_JPEG = (0xFF, 0xD8, 0xFF)
_ORIENTATION = 0x0112  # EXIF tag
_QUARTER_TURNS = (5, 6, 7, 8)  # its values that swap height and width


def read_image(path: str | os.PathLike[str], *, apply_exif: bool = False) -> Tensor:
    """Reads an image file as RGB.

    Gray images get three equal channels; CMYK and palette images are converted; transparency is dropped; 16-bit images
    keep their upper 8 bits; of an animation the first frame is read.

    Args:
        path: the file.
        apply_exif: turn the image as its EXIF orientation says. Only right where the boxes were drawn on the turned
            image.

    Returns:
        uint8 ``[3, H, W]``, possibly a view of channels-last memory.

    Raises:
        DataError: the file is missing, empty, truncated or no image. The message does not repeat the path.
    """
    try:
        raw = np.fromfile(path, dtype=np.uint8)
    except FileNotFoundError:
        raise DataError("the file does not exist") from None
    except OSError as error:
        raise DataError(f"the file cannot be read: {error.strerror or error}") from None
    if raw.size == 0:
        raise DataError("the file is empty")
    if tuple(raw[:3].tolist()) == _JPEG:
        image = _read_jpeg(raw, apply_exif)
        if image is not None:
            return image
    return _read_with_pil(raw.tobytes(), apply_exif)


def image_size(path: str | os.PathLike[str], *, apply_exif: bool = False) -> tuple[int, int]:
    """Returns (height, width) from the header of an image file, without decoding it.

    Args:
        path: the file.
        apply_exif: of the image as its EXIF orientation turns it.

    Raises:
        DataError: the file is missing or its header is no image's.
    """
    try:
        with Image.open(path) as image:
            turned = apply_exif and image.getexif().get(_ORIENTATION, 1) in _QUARTER_TURNS
            return (image.width, image.height) if turned else (image.height, image.width)
    except FileNotFoundError:
        raise DataError("the file does not exist") from None
    except Exception as error:
        raise DataError(_reason(error)) from None


def _read_jpeg(raw: np.ndarray, apply_exif: bool) -> Tensor | None:
    # None sends the file to PIL: it reads more kinds of JPEG, and says better what is wrong with a broken one.
    if decode_jpeg is None:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            image = decode_jpeg(torch.from_numpy(raw), apply_exif_orientation=apply_exif)
    except RuntimeError:
        return None
    if image.shape[0] == 1:
        return image.expand(3, -1, -1)
    return image if image.shape[0] == 3 else None


def _read_with_pil(raw: bytes, apply_exif: bool) -> Tensor:
    try:
        with Image.open(io.BytesIO(raw)) as image:
            array = _to_rgb(ImageOps.exif_transpose(image) if apply_exif else image)
    except Exception as error:  # PIL's plugins raise nearly anything on broken input
        raise DataError(_reason(error)) from None
    return torch.from_numpy(array).permute(2, 0, 1)


def _to_rgb(image: Image.Image) -> np.ndarray:
    if image.mode.startswith("I") or image.mode == "F":
        # PIL's own conversion clips these to 255, which leaves a white image.
        gray = np.asarray(image)
        if gray.dtype.kind == "f":
            gray = np.nan_to_num(gray)
        elif gray.dtype.itemsize == 2 or gray.max() > 255:
            gray = gray >> 8
        return np.repeat(gray.clip(0, 255).astype(np.uint8)[:, :, None], 3, axis=2)
    if "transparency" in image.info:
        image = image.convert("RGBA")
    return np.array(image.convert("RGB"))


def _reason(error: Exception) -> str:
    if isinstance(error, Image.UnidentifiedImageError):
        return "the file is not an image that PIL can read"
    return f"{type(error).__name__}: {error}"
