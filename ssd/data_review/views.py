"""Detection in several views of each image, merged: flips, and borders extended by reflection.

Annotators often skip objects that the border of the image cuts, and a detector learns that from them. In an image that
continues beyond its border, by its mirror image, it finds them. What views agree on is more certain than the score in one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from ssd.data import DetectionDataset, ImageError
from ssd.evaluate.records import box_iou
from ssd.inference.detector import Detector

_SAME = 0.5  # IoU of detections of one object in two views
_MIN_SCORE = 0.02  # score of a detection in a view
_MIN_SIDE = 0.01  # side of a box, as a fraction of the image's side


@dataclass(frozen=True)
class View:
    """How an image is shown to the detector.

    Args:
        border: Width that is added by reflection on each side, as a fraction of the image's side.
        hflip: Horizontal flip.
        vflip: Vertical flip.
    """

    border: float = 0.0
    hflip: bool = False
    vflip: bool = False

    def apply(self, image: Tensor) -> Tensor:
        """Returns the view of an image uint8 `[3, H, W]`."""
        height, width = image.shape[1:]
        x, y = self._margins(height, width)
        padded = torch.nn.functional.pad(image[None].float(), (x, x, y, y), mode="reflect")[0].to(torch.uint8)
        turned = [axis for axis, flips in ((1, self.vflip), (2, self.hflip)) if flips]
        return padded.flip(turned).contiguous()

    def restore(self, boxes: Tensor, height: int, width: int) -> np.ndarray:
        """Returns boxes `[N, 4]` of a view as float64 boxes of the image with these sides, clipped to it."""
        x, y = self._margins(height, width)
        x1, y1, x2, y2 = boxes.double().numpy().T
        if self.hflip:
            x1, x2 = width + 2 * x - x2, width + 2 * x - x1
        if self.vflip:
            y1, y2 = height + 2 * y - y2, height + 2 * y - y1
        shifted = np.stack([x1 - x, y1 - y, x2 - x, y2 - y], axis=1)
        clipped: np.ndarray = shifted.clip(0, [width, height, width, height])
        return clipped

    def _margins(self, height: int, width: int) -> tuple[int, int]:
        # reflection allows at most one pixel less than the side
        return min(round(self.border * width), width - 1), min(round(self.border * height), height - 1)


@dataclass(frozen=True)
class Merged:
    """Detections of one image in all views, in descending order of score."""

    boxes: np.ndarray  # [D, 4] float64 xyxy in pixels of the image
    scores: np.ndarray  # [D] float64, mean over the views
    labels: np.ndarray  # [D] int64


def detect_in_views(
    detector: Detector, dataset: DetectionDataset, views: Sequence[View]
) -> Iterator[tuple[int, Merged]]:
    """Yields index and detections of every image that can be read; faults are in the log of the data set."""
    reading: deque[tuple[int, int, int]] = deque()

    def images() -> Iterator[Tensor]:
        for index in range(len(dataset)):
            try:
                image = dataset.load_image(index)
            except ImageError as error:
                dataset.log.add(error.fault)
                continue
            reading.append((index, image.shape[1], image.shape[2]))
            yield from (view.apply(image) for view in views)

    results = detector.stream(images(), score_threshold=_MIN_SCORE)
    while found := list(islice(results, len(views))):
        index, height, width = reading.popleft()
        boxes = [view.restore(result.boxes, height, width) for view, result in zip(views, found, strict=True)]
        scores, labels = (
            [result.scores.double().numpy() for result in found],
            [result.labels.numpy() for result in found],
        )
        yield index, merge_views(boxes, scores, labels, (height, width))


def merge_views(
    boxes: Sequence[np.ndarray], scores: Sequence[np.ndarray], labels: Sequence[np.ndarray], size: tuple[int, int]
) -> Merged:
    """Merges the detections of one class that overlap, each box the mean of theirs, weighted by score.

    The score is the mean over the views of the highest score in each, 0 in a view without such a detection.

    Args:
        boxes: `[N, 4]` of each view, in pixels of the image.
        scores: `[N]` of each view.
        labels: `[N]` of each view.
        size: Height and width of the image.
    """
    view = np.repeat(np.arange(len(boxes)), [len(part) for part in boxes])
    box, score, label = np.concatenate(boxes), np.concatenate(scores), np.concatenate(labels)
    sides = box[:, 2:] - box[:, :2]
    order = np.argsort(-score, kind="stable")
    order = order[(sides[order] >= _MIN_SIDE * np.array(size[::-1])).all(axis=1)]
    view, box, score, label = view[order], box[order], score[order], label[order]
    same = (box_iou(box, box) >= _SAME) & (label[:, None] == label)
    left = np.ones(len(box), dtype=bool)
    merged: list[tuple[np.ndarray, float, int]] = []
    for row in range(len(box)):
        if not left[row]:
            continue
        members = np.flatnonzero(left & same[row])
        left[members] = False
        best = np.zeros(len(boxes))
        np.maximum.at(best, view[members], score[members])
        merged.append((np.average(box[members], axis=0, weights=score[members]), best.mean(), label[row]))
    merged.sort(key=lambda detection: -detection[1])
    return Merged(
        np.array([b for b, _, _ in merged], dtype=float).reshape(-1, 4),
        np.array([s for _, s, _ in merged], dtype=float),
        np.array([c for _, _, c in merged], dtype=np.int64),
    )
