"""Decodes every image of a data set in parallel; keeps hashes, thumbnails and EXIF orientations."""

from __future__ import annotations

import hashlib
import io
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ssd.data import DataError, DetectionDataset, Fault, ImageError
from ssd.data.loading.image_header import header_of

SIDE = 16  # pixels of a thumbnail's side
_SAMPLED = 192  # pixels of the shorter side that a thumbnail is made of, at least
DARK = "image nearly black"  # kind of fault
_DARK = 16  # gray levels
_AHEAD = 64  # images queued for each thread


@dataclass(frozen=True)
class ImageFacts:
    """Properties of an image file.

    Args:
        file: Its path.
        fault: Why it cannot be read, or None.
        digest: 16 bytes, equal for files with the same bytes.
        thumbnail: uint8 `[16, 16]` gray, None if the image cannot be read.
        perceptual_hash: 64 bits that change little with size, compression and brightness.
        orientation: EXIF orientation, 1 for upright images.
    """

    file: str
    fault: Fault | None
    digest: bytes = b""
    thumbnail: np.ndarray | None = None
    perceptual_hash: int = 0
    orientation: int = 1


def examine_images(dataset: DetectionDataset, workers: int) -> Iterator[ImageFacts]:
    """Yields the properties of each image, in the order of the data set.

    Args:
        dataset: Data set; its images are read as in training.
        workers: Threads; decoders release Python's lock.
    """
    return examine_some(((dataset, index) for index in range(len(dataset))), workers)


def examine_some(
    images: Iterable[tuple[DetectionDataset, int]], workers: int, ahead: int = _AHEAD
) -> Generator[ImageFacts, None, None]:
    """Yields the properties of images (data set, index) in their order.

    Args:
        images: The images; consumed lazily.
        workers: Threads.
        ahead: Images queued for each thread; closing the iterator waits for those that a thread has begun.
    """
    pool = ThreadPoolExecutor(max(1, workers))
    waiting: deque[Future[ImageFacts]] = deque()
    try:
        for dataset, index in images:
            waiting.append(pool.submit(examine_image, dataset, index))
            if len(waiting) >= ahead * max(1, workers):
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def examine_image(dataset: DetectionDataset, index: int) -> ImageFacts:
    """Reads image `index` of a data set and its file."""
    file = str(dataset.annotations.files[index])
    try:
        image = dataset.load_image(index)
        content = dataset.encoded(index).tobytes()
        orientation = header_of(io.BytesIO(content), file).orientation
        digest = hashlib.blake2b(content, digest_size=16).digest()
    except ImageError as error:
        return ImageFacts(file, error.fault)
    except (DataError, OSError) as error:
        return ImageFacts(file, Fault(file, "image unreadable", str(error)))
    gray = to_gray(image)
    return ImageFacts(file, None, digest, shrink(gray, SIDE, SIDE), difference_hash(gray), orientation)


def find_dark_images(images: Iterable[ImageFacts]) -> Iterator[Fault]:
    """Yields the images that are nearly black, as those of 16 bits are whose values have 12 bits only."""
    for facts in images:
        if facts.thumbnail is not None and facts.thumbnail.max() <= _DARK:
            detail = (
                f"its brightest part has the gray level {facts.thumbnail.max()} of 255; of 16 bits the upper 8 are used, "
                "so values of fewer bits, and float values that are slightly above 255, must be stretched first"
            )
            yield Fault(facts.file, DARK, detail)


def to_gray(image: Tensor) -> Tensor:
    """Returns an image uint8 `[3, H, W]` as gray float32, with fewer pixels if it is large."""
    step = max(1, min(image.shape[1:]) // _SAMPLED)
    return image[:, ::step, ::step].float().mean(dim=0)


def shrink(gray: Tensor, height: int, width: int) -> np.ndarray:
    """Returns a gray image as uint8 `[height, width]`, each pixel the mean of its part."""
    small = torch.nn.functional.adaptive_avg_pool2d(gray[None, None], (height, width))[0, 0]
    return small.round().to(torch.uint8).numpy()


def difference_hash(gray: Tensor) -> int:
    """Returns 64 bits, each whether a part of a gray image is brighter than the part to its left."""
    small = shrink(gray, 8, 9)
    bits = small[:, 1:] > small[:, :-1]
    return int.from_bytes(np.packbits(bits).tobytes(), "big")
