"""Reads one image file into an RGB tensor.

The header is read first: format, size and EXIF orientation. What is too large, or of another size than its annotation
says, is rejected before a pixel is decoded. JPEG files then go through torchvision's decoder, which is about twice as
fast as PIL and gives the same pixels; every other format, and a JPEG that is not RGB or gray, goes through PIL.

EXIF orientation. Cameras store an image as the sensor saw it, with a note on how to rotate it. Most annotation tools show
the rotated image (CVAT, Label Studio, Roboflow), some the stored one (labelImg, COCO's tools). The annotated size decides:
`read_image` with `size` rotates the image if only the rotated one has this size.
"""

import io
import os
import stat
import warnings

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from ssd.data.faults import DataError
from ssd.data.loading.encoded_images import EncodedImage
from ssd.data.loading.image_header import ORIENTATION, Header, header_of, open_image, reason_of
from ssd.data.loading.jpeg_decoder import load_decoder
from ssd.data.loading.jpeg_header import is_plain_jpeg

decode_jpeg = (
    load_decoder()
)  # deprecated since torchvision 0.29; where it is gone, PIL reads the same pixels, only slower

# The rotation that undoes that of EXIF.
_BACK = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
_MAX_BYTES = 1 << 30  # size of a file


class SizeError(DataError):
    """An image has another size than its annotation says, stored and oriented."""


def read_image(
    path: str | os.PathLike[str],
    *,
    apply_exif: bool = False,
    size: tuple[int, int] | None = None,
    either: bool = False,
) -> Tensor:
    """Reads an image file as RGB.

    Gray images get three equal channels; CMYK and palette images are converted; transparency is dropped; 16-bit images
    keep their upper 8 bits; float images are taken as 0 .. 1, 0 .. 255 or 0 .. 65535 by their largest value; the
    first frame of an animation or a stereo image (MPO) is read.

    Args:
        path: The file.
        apply_exif: Whether to apply the EXIF orientation.
        size: Height and width that the annotation declares; an image of another size is rejected before it is decoded.
        either: Let `size` decide on the EXIF orientation, and `apply_exif` only where both agree with it.

    Returns:
        uint8 `[3, H, W]`, possibly a view of channels-last memory.

    Raises:
        DataError: The file is missing, empty, truncated, too large or not an image. The message does not repeat the path.
        SizeError: The image does not have the declared size.
    """
    return decode_image(read_bytes(path), path, apply_exif=apply_exif, size=size, either=either)


def decode_image(
    raw: np.ndarray,
    path: str | os.PathLike[str],
    *,
    apply_exif: bool = False,
    size: tuple[int, int] | None = None,
    either: bool = False,
) -> Tensor:
    """Decodes the content of an image file, uint8 `[N]`, as `read_image` does; `path` is for its errors only."""
    header = header_of(io.BytesIO(raw.tobytes()), path)
    return _decode(raw, header, path, _decide_exif(header, apply_exif, size, either))


def encoded_or_decoded(
    raw: np.ndarray,
    path: str | os.PathLike[str],
    *,
    apply_exif: bool,
    size: tuple[int, int],
    either: bool,
) -> Tensor | EncodedImage:
    """Returns the content of a JPEG file that decoders of GPUs read, and any other image as `decode_image` does."""
    header = header_of(io.BytesIO(raw.tobytes()), path)
    apply_exif = _decide_exif(header, apply_exif, size, either)
    if header.format == "JPEG" and is_plain_jpeg(raw):
        return _encoded(raw, header, apply_exif)
    return _decode(raw, header, path, apply_exif)


def _decide_exif(header: Header, apply_exif: bool, size: tuple[int, int] | None, either: bool) -> bool:
    # whether to apply the EXIF orientation, see `read_image`
    if size is None or header.size(apply_exif) == size:
        return apply_exif
    if not either or header.size(not apply_exif) != size:
        height, width = header.size(apply_exif)
        raise SizeError(f"annotated as {size[1]} x {size[0]}, the image is {width} x {height}")
    return not apply_exif


def _decode(raw: np.ndarray, header: Header, path: str | os.PathLike[str], apply_exif: bool) -> Tensor:
    if header.format in ("JPEG", "MPO"):
        image = _read_jpeg(raw)
        if image is not None and tuple(image.shape[1:]) == header.size(False):
            return _encoded(raw, header, apply_exif).oriented(image)
    return _read_with_pil(raw, apply_exif, path)


def _encoded(raw: np.ndarray, header: Header, apply_exif: bool) -> EncodedImage:
    # The orientation is that of PIL, which also reads it from XMP, where torchvision does not.
    orientation = max(header.orientation, 1) if apply_exif else 1
    return EncodedImage(torch.from_numpy(raw), header.size(False), orientation)


def read_header(path: str | os.PathLike[str]) -> Header:
    """Reads size, format and orientation of an image file, without decoding it.

    Raises:
        DataError: The file is missing, it has no image header, or the image is too large.
    """
    check_file(path)
    try:
        with open(path, "rb") as file:
            return header_of(file, path)
    except OSError as error:  # no permission, or a disk that fails
        raise DataError(f"the file cannot be read: {error.strerror or error}") from None


def image_size(path: str | os.PathLike[str], *, apply_exif: bool = False) -> tuple[int, int]:
    """Returns (height, width) from the header of an image file.

    Args:
        path: The file.
        apply_exif: Whether to apply the EXIF orientation.

    Raises:
        DataError: See `read_header`.
    """
    return read_header(path).size(apply_exif)


def check_file(path: str | os.PathLike[str], max_bytes: int = _MAX_BYTES) -> int:
    """Returns the size of a file in bytes.

    Raises:
        DataError: It is missing, empty, too large, or not a regular file: a pipe would block forever.
    """
    try:
        status = os.stat(path)
    except FileNotFoundError:
        raise DataError("the file does not exist") from None
    except (OSError, ValueError) as error:
        raise DataError(f"the file cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if not stat.S_ISREG(status.st_mode):
        raise DataError(f"the path is {'a folder' if stat.S_ISDIR(status.st_mode) else 'not a regular file'}")
    if status.st_size == 0:
        raise DataError("the file is empty")
    if status.st_size > max_bytes:
        raise DataError(f"the file has {status.st_size} bytes, more than {max_bytes}")
    return status.st_size


def read_bytes(path: str | os.PathLike[str]) -> np.ndarray:
    """Returns the content of an image file, uint8 `[N]`.

    Raises:
        DataError: See `check_file`.
    """
    check_file(path)
    try:
        return np.fromfile(path, dtype=np.uint8)
    except OSError as error:
        raise DataError(f"the file cannot be read: {error.strerror or error}") from None


def _read_jpeg(raw: np.ndarray) -> Tensor | None:
    # None sends the file to PIL: it reads more kinds of JPEG, and says better what is wrong with a broken one.
    if decode_jpeg is None:
        return None
    try:
        image = decode_jpeg(torch.from_numpy(raw))
    except RuntimeError:
        return None
    if image.shape[0] == 1:
        return image.expand(3, -1, -1)
    return image if image.shape[0] == 3 else None


def decode_jpegs(contents: list[Tensor], device: torch.device) -> list[Tensor]:
    """Decodes JPEG files uint8 `[N]` in host memory into RGB uint8 `[3, H, W]` on a device, without EXIF orientation.

    Raises:
        RuntimeError: One of the files cannot be decoded, or torchvision has no decoder for the device.
    """
    try:
        from torchvision.io import decode_jpeg
    except ImportError:
        raise RuntimeError("this torchvision has no decode_jpeg") from None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        images: list[Tensor] = decode_jpeg(contents, mode="RGB", device=device)
    return images


def _read_with_pil(raw: np.ndarray, apply_exif: bool, path: str | os.PathLike[str]) -> Tensor:
    try:
        with open_image(io.BytesIO(raw.tobytes())) as image:
            array = pil_to_rgb(image, apply_exif=apply_exif)
    except Exception as error:
        raise DataError(reason_of(error, path)) from None
    return torch.from_numpy(array).permute(2, 0, 1)


def pil_to_rgb(image: Image.Image, *, apply_exif: bool = False) -> np.ndarray:
    """Converts a PIL image of any mode to RGB, uint8 `[H, W, 3]`; modes are treated as `read_image` says."""
    back = _BACK.get(image.getexif().get(ORIENTATION, 1)) if image.format == "TIFF" else None
    if apply_exif:
        image = ImageOps.exif_transpose(image)
    elif back is not None:  # PIL turns TIFF files when it decodes them
        image = image.transpose(back)
    if image.mode.startswith("I") or image.mode == "F":
        # PIL's own conversion clips these to 255, which leaves a white image.
        gray = np.asarray(image)
        most = np.nanmax(gray, initial=0, where=np.isfinite(gray)) if gray.dtype.kind == "f" else gray.max()
        if gray.dtype.kind == "f":
            gray = np.nan_to_num(gray, posinf=most, neginf=0) * (
                255.0 if most <= 1 else 1.0 if most <= 255 else 1 / 257
            )
        elif gray.dtype.itemsize == 2 or most > 255:
            gray = gray >> 8
        return np.repeat(gray.clip(0, 255).astype(np.uint8)[:, :, None], 3, axis=2)
    if "transparency" in image.info:
        image = image.convert("RGBA")
    return np.array(image.convert("RGB"))
