"""Sample images for the page: drawn shapes, or images of a folder. They are read once, at the start."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from ssd.common.errors import DataError
from ssd.common.file_tree import images_below
from ssd.data.formats.shapes import ShapesDataset
from ssd.data.loading.images import read_image
from ssd.data.loading.pil_images import to_pil

_MAX_SAMPLES = 12
_MAX_SIDE = 1280  # pixels


@dataclass(frozen=True)
class Sample:
    """An image to choose on the page.

    Attributes:
        name: Name to show.
        jpeg: The image as a JPEG file.
    """

    name: str
    jpeg: bytes


def drawn_samples() -> list[Sample]:
    """Returns three images of drawn shapes."""
    shapes = ShapesDataset("val", size=3, image_size=480, cache=False)
    return [_sample(f"shapes {number + 1}", to_pil(shapes.load_image(number))) for number in range(3)]


def read_samples(folder: Path) -> list[Sample]:
    """Returns the first images of a folder that can be read, with their EXIF orientation applied.

    Raises:
        DataError: There are none.
    """
    samples: list[Sample] = []
    for file in images_below(folder):
        if len(samples) == _MAX_SAMPLES:
            break
        try:
            samples.append(_sample(file.stem, to_pil(read_image(file, apply_exif=True))))
        except DataError:
            continue
    if not samples:
        raise DataError(f"--samples {folder}: no image can be read")
    return samples


def _sample(name: str, image: Image.Image) -> Sample:
    image.thumbnail((_MAX_SIDE, _MAX_SIDE))
    content = io.BytesIO()
    image.save(content, "JPEG", quality=92)
    return Sample(name, content.getvalue())
