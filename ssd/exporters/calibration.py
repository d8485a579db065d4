"""Images that set the ranges of int8: of the training split, so that an evaluation on other images means something."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from ssd.config import TrainConfig
from ssd.config.dataset_format import find_formats
from ssd.data import DetectionDataset
from ssd.data.loading.whole_images import WholeImages
from ssd.exporters.running import network_inputs
from ssd.inference.sources import ImageFile, images_of

MAX_IMAGES = 100


@dataclass(frozen=True)
class Calibration:
    """Calibration images.

    Attributes:
        about: Where they are from, for people.
        images: Yields up to `MAX_IMAGES` of them as `[3, S, S]` in 0..1; can be called again.
    """

    about: str
    images: Callable[[], Iterator[Tensor]]


def is_dataset(path: str | None) -> bool:
    """Returns whether a path is a data set, rather than a folder of images; without a path, the run has one."""
    return path is None or (os.path.isdir(path) and bool(find_formats(Path(path))))


def of_training_split(config: TrainConfig, side: int) -> Calibration:
    """Returns images of the training split of a data set, evenly spread over it.

    Args:
        config: Data set and splits.
        side: Input size S of the network.

    Raises:
        DataError: The data set cannot be opened.
    """
    from ssd.data.splits import open_splits
    from ssd.engine.setup import TRAINING_ONLY

    names = (config.train_split, config.val_split, config.val_share)
    dataset, _ = open_splits(config.dataset, config.data_path, *names, config.dataset_options, TRAINING_ONLY)
    count = min(MAX_IMAGES, len(dataset))
    rows = [index * len(dataset) // count for index in range(count)]
    return Calibration(f"training images ({dataset.name})", lambda: _of_rows(dataset, rows, side))


def _of_rows(dataset: DetectionDataset, rows: Sequence[int], side: int) -> Iterator[Tensor]:
    for row in rows:
        yield WholeImages.of([dataset.load_image(row)], side, antialias=True).render()[0] / 255


def of_files(source: str, side: int, apply_exif: bool, evaluated: DetectionDataset | None) -> Calibration:
    """Returns the first images of a source of `Detector.predict`, except for those that are evaluated.

    Args:
        source: Folder, pattern, list or file.
        side: Input size S of the network.
        apply_exif: Whether to apply the EXIF orientation.
        evaluated: Data set of the evaluation.
    """
    left_out = {os.path.realpath(str(file)) for file in evaluated.annotations.files} if evaluated is not None else set()

    def kept() -> Iterator[Tensor]:
        items = images_of(source)
        others = (i for i in items if not isinstance(i, ImageFile) or os.path.realpath(i.file) not in left_out)
        return network_inputs(others, side, apply_exif, MAX_IMAGES)

    about = f"images of {source}, which is no data set with a training split"
    return Calibration(about + (" (those of --eval-data are left out)" if left_out else ""), kept)
