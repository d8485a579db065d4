"""Inference with a trained model.

detector = ssd.load("runs/x")
result = detector.predict("photo.jpg")
result.plot("drawing.jpg")
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from numbers import Integral, Real
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor

from ssd.checkpoints import build_from_weights
from ssd.checkpoints.reading import read_checkpoint
from ssd.common.errors import DataError, DownloadError, unknown
from ssd.inference.engine import InferenceEngine
from ssd.inference.result import Result
from ssd.inference.source_files import is_live, names_one_video, stream_name
from ssd.inference.sources import Source, images_of, is_one_image
from ssd.inference.stream import detect_all
from ssd.inference.tiles import Tiling
from ssd.models import SSD
from ssd.models.half_precision import check_dtype

SCORE_THRESHOLD = 0.4  # default for classes without a threshold from an evaluation


class Detector:
    """A trained model in evaluation mode with its classes, EXIF handling and score thresholds.

    Args:
        model: Network with post-processing, in evaluation mode.
        classes: Class names without the background.
        apply_exif: Whether to apply the EXIF orientation of images.
        thresholds: Score threshold by class name; 0.4 for other classes.
        dtype: Type in which the network runs; None is that of `InferenceEngine`.

    Raises:
        TypeError: `model` is not a model of this project, or `classes` are not strings.
        ValueError: The model has more or fewer classes.
    """

    def __init__(
        self,
        model: SSD,
        classes: Sequence[str],
        apply_exif: bool = True,
        thresholds: Mapping[str, float] = MappingProxyType({}),
        dtype: torch.dtype | None = None,
    ) -> None:
        if not isinstance(model, SSD):
            raise TypeError(f"model must be a model of ssd.build_model, got {type(model).__name__}")
        if isinstance(classes, str) or not all(isinstance(name, str) for name in classes):
            raise TypeError(f"classes must be a list of names, got {classes!r}")
        if len(classes) + 1 != model.num_classes:
            raise ValueError(
                f"classes must have {model.num_classes - 1} names, those of the model without the background, got "
                f"{len(classes)}"
            )
        self.model = model
        self.classes = tuple(classes)
        self.apply_exif = apply_exif
        self.thresholds = dict(thresholds)
        self.dtype = dtype
        self._engine: InferenceEngine | None = None
        self._engine_dtype = dtype

    @property
    def engine(self) -> InferenceEngine:
        """Engine that runs the model, created on first use and after `model` or `dtype` was replaced."""
        if self._engine is None or self._engine.model is not self.model or self._engine_dtype is not self.dtype:
            self._engine, self._engine_dtype = InferenceEngine(self.model, dtype=self.dtype), self.dtype
        return self._engine

    def predict(
        self,
        source: Source,
        *,
        score_threshold: float | None = None,
        classes: Sequence[str] | None = None,
        batch_size: int = 8,
        tile: int | tuple[int, int] | None = None,
        max_detections: int | None = None,
        progress: bool = False,
    ) -> Result | list[Result] | Iterator[Result]:
        """Detects objects in one or many images.

        Args:
            source: One image: a file, a PIL image of any mode, a uint8 array `[H, W, 3]` in RGB order, or a tensor
                `[3, H, W]`, uint8 or floating in 0..1. Many: a list of these, a batch, a folder, a glob pattern, a
                generator, a text file with one path per line, a tar file, or a video: a file, a URL such as
                rtsp://host/path, or the number of a camera.
            score_threshold: Minimum score of a detection; None uses `thresholds`.
            classes: Names of the classes to keep; None keeps all.
            batch_size: Number of images, or tiles of images, per batch; 1 for cameras and live streams.
            tile: `SIZE` or `(SIZE, OVERLAP)`: detect also in tiles of that many pixels, by default overlapping by a
                fifth, for small objects in large images. Objects larger than a tile are found in the whole image.
            max_detections: Maximum number of detections of an image, those with the highest scores; None sets no limit
                beyond that of the model.
            progress: Whether to show a progress bar.

        Returns:
            A `Result` for one image, a list of them for a list or a batch. For all other sources an iterator, which
            reads the images lazily and needs constant memory.

        Raises:
            DataError: A single image or video cannot be read, an item is not an image, or a folder contains no images.
                Among many images, an unreadable file results in a `Result` with `error` instead.
            ValueError: An argument is out of range, or a class does not exist.
        """
        results = self.stream(
            source,
            score_threshold=score_threshold,
            classes=classes,
            batch_size=batch_size,
            tile=tile,
            max_detections=max_detections,
        )
        if is_one_image(source):
            (result,) = results
            if result.error is not None:
                raise DataError(f"{result.file}: {result.error}")
            return result
        if isinstance(source, int) or (isinstance(source, (str, os.PathLike)) and names_one_video(source)):
            results = _or_raise(results)
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
        tile: int | tuple[int, int] | None = None,
        max_detections: int | None = None,
    ) -> Iterator[Result]:
        """Yields the results of a source in order; the arguments are those of `predict`.

        The next batch is read while the device processes the current one. An unreadable image results in a `Result`
        with `error`.
        """
        if not isinstance(batch_size, Integral) or batch_size < 1:
            raise ValueError(f"batch_size must be an integer of at least 1, got {batch_size!r}")
        if score_threshold is not None and not (isinstance(score_threshold, Real) and 0 <= score_threshold <= 1):
            raise ValueError(f"score_threshold must be a number in 0..1, got {score_threshold!r}")
        if max_detections is not None and not (isinstance(max_detections, Integral) and max_detections >= 1):
            raise ValueError(f"max_detections must be an integer of at least 1, got {max_detections!r}")
        thresholds = self.label_thresholds(score_threshold, classes)
        tiling = None if tile is None else Tiling.of(tile)
        if (stream := stream_name(source)) is not None and is_live(stream):
            batch_size = 1  # do not wait for further frames
        return detect_all(
            self.engine,
            images_of(source),
            thresholds,
            batch_size,
            tiling,
            max_detections=max_detections,
            preset=self.model.preset,
            classes=self.classes,
            apply_exif=self.apply_exif,
        )

    def score_thresholds(self, score_threshold: float | None = None) -> list[float]:
        """Returns the score threshold of each class; `score_threshold` overrides those of the detector."""
        if score_threshold is not None:
            return [score_threshold] * len(self.classes)
        return [self.thresholds.get(name, SCORE_THRESHOLD) for name in self.classes]

    def label_thresholds(self, score_threshold: float | None = None, classes: Sequence[str] | None = None) -> Tensor:
        """Returns the minimum score of each label `[C]`; no score reaches that of the background or of an excluded class.

        Raises:
            ValueError: A class does not exist, or `classes` is a string.
        """
        if isinstance(classes, str):
            raise ValueError(f"classes must be a list of names, got the string {classes!r}")
        classes = None if classes is None else [*classes]  # a generator can be read once only
        for name in classes or ():
            if name not in self.classes:
                raise ValueError(unknown("class", name, self.classes))
        values = zip(self.classes, self.score_thresholds(score_threshold), strict=True)
        return torch.tensor([2.0, *(2.0 if classes is not None and name not in classes else v for name, v in values)])


def _or_raise(results: Iterator[Result]) -> Iterator[Result]:
    for result in results:
        if result.error is not None:
            raise DataError(f"{result.file}: {result.error}")
        yield result


def load(source: str | Path, device: str | torch.device = "auto", dtype: torch.dtype | None = None) -> Detector:
    """Loads a trained detector, with the EMA weights if the run has them.

    Args:
        source: A run folder (uses best.pt, else last.pt), a checkpoint of this project or of any system that
            `ssd.load_weights` supports, or a name of torchvision's weights, "SSD300_VGG16_Weights.COCO_V1" or short
            "SSD300_VGG16.COCO_V1", which are downloaded once. If the file has no class names, the classes are named by
            their numbers.
        device: Device of the model; "auto" is the first GPU if there is one.
        dtype: Type in which the network runs; None is bfloat16 on GPUs and CPUs that compute in it, else float32.

    Raises:
        DataError: The checkpoint does not exist or fits no model, or the download failed.
        ValueError: There is no such device, or no network runs in this type.
    """
    check_dtype(dtype)
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=device).tolist()  # the meta device has no values
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device {str(device)!r}: {str(error).splitlines()[0]}") from error
    try:
        checkpoint = read_checkpoint(source)
        model = build_from_weights(checkpoint)
    except (ValueError, FileNotFoundError, DownloadError) as error:
        raise DataError(str(error)) from error
    classes = checkpoint.classes or tuple(str(label) for label in range(1, model.num_classes))
    # Unknown for foreign weights: apply it, because photos should be upright.
    apply_exif = True if checkpoint.apply_exif is None else checkpoint.apply_exif
    return Detector(model.to(device).eval(), classes, apply_exif, checkpoint.thresholds, dtype)
