"""torchvision's JPEG decoder as an op, without the import of torchvision, which takes nearly as long as torch's own."""

import contextlib
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

DecodeJpeg = Callable[[Tensor], Tensor]  # file uint8 [N] -> uint8 [C, H, W] as stored, without EXIF orientation
_LIBRARIES = ("image_stable.*", "image.*")  # since torchvision 0.29; before
_UNCHANGED = 0  # the channels of the file


def load_decoder() -> DecodeJpeg | None:
    """Returns the decoder; None if torchvision has none, as its releases after 0.29 may, or is of another torch."""
    spec = find_spec("torchvision")
    folder = Path(spec.origin).parent if spec is not None and spec.origin is not None else None
    for library in (file for name in _LIBRARIES for file in (folder.glob(name) if folder is not None else ())):
        with contextlib.suppress(OSError, RuntimeError, AttributeError):
            torch.ops.load_library(library)
            op = torch.ops.image.decode_jpeg.default
            return lambda file: op(file, _UNCHANGED, False)
    try:
        from torchvision.io import decode_jpeg
    except (ImportError, RuntimeError):  # the latter if its library cannot be loaded
        return None

    def decode(file: Tensor) -> Tensor:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            image: Tensor = decode_jpeg(file)
            return image

    return decode
