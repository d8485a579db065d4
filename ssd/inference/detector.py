"""Inference with a trained model.

detector = ssd.load("runs/x")
result = detector.predict("photo.jpg")
result.plot("drawing.jpg")
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor

import ssd_ops
from ssd.checkpoints import build_from_weights
from ssd.checkpoints.reading import read_checkpoint
from ssd.data.loading.whole_images import WholeImages
from ssd.errors import DataError, unknown
from ssd.inference.engine import InferenceEngine
from ssd.inference.result import Result
from ssd.inference.sources import ImageLike, Source, images_of, is_one_image, read
from ssd.models import SSD
from ssd.models.torchvision_io import split_detections

SCORE_THRESHOLD = 0.4  # of a class without a threshold from an evaluation


class Detector:
    """A trained model in evaluation mode with its classes, EXIF handling and score thresholds.

    Args:
        model: Network with post-processing, in evaluation mode.
        classes: Class names without the background.
        apply_exif: Whether to apply the EXIF orientation of images.
        thresholds: Score threshold by class name; 0.4 for other classes.
    """

    def __init__(
        self,
        model: SSD,
        classes: tuple[str, ...],
        apply_exif: bool = True,
        thresholds: Mapping[str, float] = MappingProxyType({}),
    ) -> None:
        self.model = model
        self.classes = classes
        self.apply_exif = apply_exif
        self.thresholds = thresholds

    @cached_property
    def engine(self) -> InferenceEngine:
        """Engine that runs the model, created on first use."""
        return InferenceEngine(self.model)

    def predict(
        self,
        source: Source,
        *,
        score_threshold: float | None = None,
        classes: Sequence[str] | None = None,
        batch_size: int = 8,
        progress: bool = False,
    ) -> Result | list[Result] | Iterator[Result]:
        """Detects objects in one or many images.

        Args:
            source: One image: a file, a PIL image of any mode, a uint8 array `[H, W, 3]` in RGB order, or a tensor
                `[3, H, W]`, uint8 or floating in 0..1. Many: a list of these, a batch, a folder, a glob pattern, or a
                generator.
            score_threshold: Minimum score of a detection; None uses `thresholds`.
            classes: Names of the classes to keep; None keeps all.
            batch_size: Number of images per batch.
            progress: Whether to show a progress bar.

        Returns:
            A `Result` for one image, a list of them for a list or a batch. For folders, patterns and generators an
            iterator, which reads the images lazily and needs constant memory.

        Raises:
            DataError: A single image cannot be read, an item is not an image, or a folder contains no images. Among
                many images, an unreadable file results in a `Result` with `error` instead.
            ValueError: An argument is out of range, or a class does not exist.
        """
        results = self.stream(source, score_threshold=score_threshold, classes=classes, batch_size=batch_size)
        if is_one_image(source):
            (result,) = results
            if result.error is not None:
                raise DataError(f"{result.file}: {result.error}")
            return result
        if progress:
            from tqdm import tqdm

            results = iter(tqdm(results, total=len(source) if isinstance(source, Sequence) else None, unit="image"))
        return list(results) if isinstance(source, (list, tuple, np.ndarray, Tensor)) else results

    def stream(
        self,
        source: Source,
        *,
        score_threshold: float | None = None,
        classes: Sequence[str] | None = None,
        batch_size: int = 8,
    ) -> Iterator[Result]:
        """Yields the results of a source in order; the arguments are those of `predict`.

        The next batch is read while the device processes the current one. An unreadable image results in a `Result`
        with `error`.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        if score_threshold is not None and not 0 <= score_threshold <= 1:
            raise ValueError(f"score_threshold must be in 0..1, got {score_threshold}")
        thresholds = torch.tensor([2.0, *self.score_thresholds(score_threshold)])
        if classes is not None:
            for name in classes:
                if name not in self.classes:
                    raise ValueError(unknown("class", name, self.classes))
            thresholds[1:][[name not in classes for name in self.classes]] = 2.0  # above every score
        return self._stream(images_of(source), thresholds, batch_size)

    def score_thresholds(self, score_threshold: float | None = None) -> list[float]:
        """Returns the score threshold of each class; `score_threshold` overrides those of the detector."""
        if score_threshold is not None:
            return [score_threshold] * len(self.classes)
        return [self.thresholds.get(name, SCORE_THRESHOLD) for name in self.classes]

    def _stream(self, images: Iterator[ImageLike], thresholds: Tensor, batch_size: int) -> Iterator[Result]:
        pending: deque[list[tuple[Path | None, Tensor | str]]] = deque()
        numbered = enumerate(images)

        def batches() -> Iterator[WholeImages]:
            while chunk := list(islice(numbered, batch_size)):
                pending.append([self._read(index, image) for index, image in chunk])
                if readable := [image for _, image in pending[-1] if isinstance(image, Tensor)]:
                    yield self.engine.pack(readable)

        for detections in self.engine.detect_all(batches()):
            while all(isinstance(image, str) for _, image in pending[0]):
                yield from self._results(pending.popleft(), None, thresholds)
            yield from self._results(pending.popleft(), detections, thresholds)
        for rest in pending:
            yield from self._results(rest, None, thresholds)

    def _read(self, index: int, image: ImageLike) -> tuple[Path | None, Tensor | str]:
        file = Path(image) if isinstance(image, (str, os.PathLike)) else None
        try:
            return file, read(image, self.apply_exif)
        except DataError as error:
            if file is None:  # an invalid argument, not an unreadable file
                raise DataError(f"image {index} of source: {error}") from None
            return file, str(error)

    def _results(
        self,
        batch: list[tuple[Path | None, Tensor | str]],
        detections: ssd_ops.Detections | None,
        thresholds: Tensor,
    ) -> Iterator[Result]:
        sizes = [(image.shape[1], image.shape[2]) for _, image in batch if isinstance(image, Tensor)]
        outputs = iter([] if detections is None else split_detections(detections, sizes))
        for file, image in batch:
            if isinstance(image, str):
                empty = torch.zeros(0)
                yield Result(empty.view(0, 4), empty.long(), empty, self.classes, None, file, image)
                continue
            output = next(outputs)
            keep = output["scores"] >= thresholds[output["labels"]]
            boxes, labels, scores = (output[key][keep] for key in ("boxes", "labels", "scores"))
            yield Result(boxes, labels, scores, self.classes, image, file)


def load(source: str | Path, device: str | torch.device = "auto") -> Detector:
    """Loads a trained detector, with the EMA weights if the run has them.

    Args:
        source: A run folder (uses best.pt, else last.pt), a checkpoint of this project or of any system that
            `ssd.load_weights` supports, or a name of torchvision's weights, "SSD300_VGG16_Weights.COCO_V1" or short
            "SSD300_VGG16.COCO_V1", which are downloaded once. If the file has no class names, the classes are named by
            their numbers.
        device: Device of the model; "auto" is the first GPU if there is one.

    Raises:
        DataError: The checkpoint does not exist or fits no model, or the download failed.
    """
    try:
        checkpoint = read_checkpoint(source)
        model = build_from_weights(checkpoint)
    except (ValueError, FileNotFoundError) as error:
        raise DataError(str(error)) from error
    except RuntimeError as error:
        if not isinstance(error.__cause__, OSError):
            raise
        raise DataError(str(error)) from error
    classes = checkpoint.classes or tuple(str(label) for label in range(1, model.num_classes))
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    # Unknown for foreign weights: apply it, because photos should be upright.
    apply_exif = True if checkpoint.apply_exif is None else checkpoint.apply_exif
    return Detector(model.to(device).eval(), classes, apply_exif, checkpoint.thresholds)
