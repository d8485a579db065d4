"""Decodes every image of a data set in parallel; keeps hashes, thumbnails and EXIF orientations."""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ssd.data import DataError, DetectionDataset, Fault, ImageError
from ssd.data.loading.images import read_header

SIDE = 16  # of a thumbnail
_SAMPLED = 512  # pixels of the shorter side that a thumbnail is made of, at least
_AHEAD = 64  # images in work for each thread


@dataclass(frozen=True)
class ImageFacts:
    """Properties of an image file.

    Args:
        file: Its path.
        fault: Why it cannot be read, or None.
        digest: 16 bytes, equal for files with the same bytes.
        thumbnail: uint8 `[16, 16]` gray, None where the image cannot be read.
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
        dataset: Whose images are read as training reads them.
        workers: Threads; decoders release Python's lock.
    """
    with ThreadPoolExecutor(max(1, workers)) as pool:
        waiting: deque[Future[ImageFacts]] = deque()
        for index in range(len(dataset)):
            waiting.append(pool.submit(examine_image, dataset, index))
            if len(waiting) >= _AHEAD * max(1, workers):
                yield waiting.popleft().result()
        for future in waiting:
            yield future.result()


def examine_image(dataset: DetectionDataset, index: int) -> ImageFacts:
    """Reads image `index` of a data set and its file."""
    file = str(dataset.annotations.files[index])
    try:
        image = dataset.load_image(index)
        orientation = read_header(file).orientation
        digest = hashlib.blake2b(Path(file).read_bytes(), digest_size=16).digest()
    except ImageError as error:
        return ImageFacts(file, error.fault)
    except (DataError, OSError) as error:
        return ImageFacts(file, Fault(file, "image unreadable", str(error)))
    thumbnail = shrink(image, SIDE, SIDE)
    return ImageFacts(file, None, digest, thumbnail, difference_hash(image), orientation)


def shrink(image: Tensor, height: int, width: int) -> np.ndarray:
    """Returns an image as gray uint8 `[height, width]`, each pixel the mean of its part."""
    step = max(1, min(image.shape[1:]) // _SAMPLED)
    gray = image[:, ::step, ::step].float().mean(dim=0)
    small = torch.nn.functional.adaptive_avg_pool2d(gray[None, None], (height, width))[0, 0]
    return small.round().to(torch.uint8).numpy()


def difference_hash(image: Tensor) -> int:
    """Returns 64 bits, each whether a part of the image is brighter than the part to its left."""
    small = shrink(image, 8, 9)
    bits = small[:, 1:] > small[:, :-1]
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def usable_cores() -> int:
    """Returns the number of processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
