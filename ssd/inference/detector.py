"""Detection with a trained model: a checkpoint of a run folder in, detections of image files out."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor

import ssd_ops
from ssd.checkpoints import build_from_weights
from ssd.checkpoints.reading import read_checkpoint
from ssd.data.faults import DataError
from ssd.data.loading.images import read_image
from ssd.data.loading.whole_images import WholeImages
from ssd.inference.engine import InferenceEngine
from ssd.models import SSD
from ssd.models.backbone_weights import is_torchvision_name
from ssd.models.torchvision_io import split_detections

SCORE_THRESHOLD = 0.4  # of a class for which no evaluation has found a better one


class Detector(NamedTuple):
    """A trained model in evaluation mode, the names of its classes, and how its images and scores are to be taken.

    `classes` are without the background. `apply_exif`: images are turned as EXIF says. `thresholds`: class to the score
    from which its detections are shown.
    """

    model: SSD
    classes: tuple[str, ...]
    apply_exif: bool = True
    thresholds: Mapping[str, float] = MappingProxyType({})


class Found(NamedTuple):
    """What was found in one image, or why it could not be read."""

    file: Path
    image: Tensor | None  # uint8 [3, H, W]; None if the file cannot be read
    boxes: Tensor  # [N, 4] float32 xyxy in pixels of the image
    labels: Tensor  # [N] int64, 1 for the first class
    scores: Tensor  # [N] float32, falling
    error: str | None = None


def load_detector(source: str | Path, device: str | torch.device = "cpu") -> Detector:
    """Loads a trained detector: the running mean of its weights where the run kept one.

    Args:
        source: a run folder (its best.pt, or else last.pt), a checkpoint of this project or of any that
            ssd.load_weights knows, or a name of torchvision such as "SSD300_VGG16_Weights.COCO_V1". Classes have numbers
            for names where a file holds none.
        device: where the model shall be.
    Raises:
        DataError: there is no checkpoint, it fits no model, or the download failed.
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
    classes = checkpoint.classes or _names_of_torchvision(str(source))
    classes = classes or tuple(str(label) for label in range(1, model.num_classes))
    # Photographs are to be seen upright: only a model that learned from pictures as they are stored takes them so.
    turned = True if checkpoint.apply_exif is None else checkpoint.apply_exif
    return Detector(model.to(device).eval(), classes, turned, checkpoint.thresholds)


def _names_of_torchvision(source: str) -> tuple[str, ...]:
    if not is_torchvision_name(source):
        return ()
    from torchvision.models import get_weight

    return tuple(get_weight(source).meta["categories"][1:])  # the first is the background


def detect_files(
    detector: Detector, files: Sequence[Path], *, score_threshold: float | None = None, batch_size: int = 8
) -> Iterator[Found]:
    """Detects objects in image files, batch by batch, in the files' order; a file that cannot be read is reported.

    Files are read while the device has the batch before.

    Args:
        detector: see load_detector.
        files: images in any format and of any size that ssd.data.loading.images.read_image knows.
        score_threshold: detections with a lower score are left out; None takes that of each class which the detector
            knows, or else 0.4.
        batch_size: images that go through the network at once.
    """
    engine = InferenceEngine(detector.model)
    lowest = torch.tensor([1.0, *thresholds_of(detector, score_threshold)])
    waiting: deque[list[tuple[Path, Tensor | str]]] = deque()

    def batches() -> Iterator[WholeImages]:
        for start in range(0, len(files), batch_size):
            waiting.append([(file, _read(file, detector.apply_exif)) for file in files[start : start + batch_size]])
            if images := [image for _, image in waiting[-1] if isinstance(image, Tensor)]:
                yield engine.pack(images)

    for detections in engine.detect_all(batches()):
        while all(isinstance(image, str) for _, image in waiting[0]):
            yield from _found(waiting.popleft(), None, lowest)
        yield from _found(waiting.popleft(), detections, lowest)
    for rest in waiting:
        yield from _found(rest, None, lowest)


def _found(
    chunk: list[tuple[Path, Tensor | str]], detections: ssd_ops.Detections | None, lowest: Tensor
) -> Iterator[Found]:
    sizes = [(image.shape[1], image.shape[2]) for _, image in chunk if isinstance(image, Tensor)]
    results = iter([] if detections is None else split_detections(detections, sizes))
    for file, image in chunk:
        if isinstance(image, str):
            yield Found(file, None, torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0), image)
            continue
        found = next(results)
        sure = found["scores"] >= lowest[found["labels"]]
        yield Found(file, image, found["boxes"][sure], found["labels"][sure], found["scores"][sure])


def thresholds_of(detector: Detector, score_threshold: float | None = None) -> list[float]:
    """The lowest score of a detection of each class."""
    if score_threshold is not None:
        return [score_threshold] * len(detector.classes)
    return [detector.thresholds.get(name, SCORE_THRESHOLD) for name in detector.classes]


def _read(file: Path, apply_exif: bool) -> Tensor | str:
    try:
        return read_image(file, apply_exif=apply_exif)
    except DataError as error:
        return str(error)
