"""Images that set the ranges of int8: of the training split, so that an evaluation on other images is unbiased."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from ssd.config import TrainConfig
from ssd.config.dataset_format import find_formats
from ssd.data import DataError, DetectionDataset, ImageError
from ssd.exporters.network import network_input
from ssd.exporters.running import network_inputs
from ssd.inference.sources import ImageFile, images_of

MAX_IMAGES = 100


@dataclass(frozen=True)
class Calibration:
    """Calibration images.

    Attributes:
        about: Description of their source, for messages.
        read: Yields up to `MAX_IMAGES` of them as `[3, S, S]` in 0..1, and adds file -> reason of those that cannot be read
            to the dict that it is called with.
        skipped: File -> reason of the images that could not be read so far.
    """

    about: str
    read: Callable[[dict[str, str]], Iterator[Tensor]]
    skipped: dict[str, str] = field(default_factory=dict)

    def images(self) -> Iterator[Tensor]:
        """Yields the images that can be read; can be called again.

        Raises:
            DataError: None can be read.
        """
        count = 0
        for image in self.read(self.skipped):
            count += 1
            yield image
        if not count and self.skipped:
            raise DataError(f"none of the {self.about} can be read; the first: {self.first_skipped()}")

    def first_skipped(self) -> str:
        """Returns file and reason of the first image that could not be read."""
        return ": ".join(next(iter(self.skipped.items())))


def is_dataset(path: str | None) -> bool:
    """Returns whether a path is a data set or its file, rather than images; without a path, the run has one."""
    return path is None or (os.path.exists(path) and bool(find_formats(Path(path))))


def of_training_split(config: TrainConfig, side: int) -> Calibration:
    """Returns images of the training split of a data set, evenly spread over it.

    Args:
        config: Data set and splits.
        side: Input size S of the network.

    Raises:
        DataError: The data set cannot be opened.
    """
    from ssd.config.choices import TRAINING_ONLY
    from ssd.data.splits import open_splits

    names = (config.train_split, config.val_split, config.val_share)
    dataset, _ = open_splits(config.dataset, config.data_path, *names, config.dataset_options, TRAINING_ONLY)
    return Calibration(
        f"training images ({dataset.name})", lambda skipped: spread_images(dataset, side, MAX_IMAGES, skipped)
    )


def spread_images(dataset: DetectionDataset, side: int, limit: int, skipped: dict[str, str]) -> Iterator[Tensor]:
    """Yields images of a data set as `[3, side, side]` in 0..1, evenly spread over it.

    Args:
        dataset: The data set.
        side: Input size S of the network.
        limit: Number of images.
        skipped: Gets file -> reason of images that cannot be read.
    """
    count = min(limit, len(dataset))
    for index in range(count):
        try:
            image = dataset.load_image(index * len(dataset) // count)
        except ImageError as error:
            skipped[error.fault.file] = error.fault.detail
            continue
        yield network_input(image, side)


def of_files(source: str, side: int, apply_exif: bool, evaluated: DetectionDataset | None) -> Calibration:
    """Returns the first images of a source of `Detector.predict`, except for those that are evaluated.

    Args:
        source: Folder, pattern, list or file.
        side: Input size S of the network.
        apply_exif: Whether to apply the EXIF orientation.
        evaluated: Data set of the evaluation.
    """
    excluded = {os.path.realpath(str(file)) for file in evaluated.annotations.files} if evaluated is not None else set()

    def kept(skipped: dict[str, str]) -> Iterator[Tensor]:
        items = images_of(source)
        others = (i for i in items if not isinstance(i, ImageFile) or os.path.realpath(i.file) not in excluded)
        return network_inputs(others, side, apply_exif, MAX_IMAGES, skipped)

    about = f"images of {source}, which is not a data set with a training split"
    return Calibration(about + (" (without those of --eval-data)" if excluded else ""), kept)
