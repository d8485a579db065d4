"""Compares the annotations of an image with detections: objects that are likely unlabeled, mislabeled or badly placed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ssd.data_review.views import Merged
from ssd.evaluate.records import box_iou

KINDS = ("unlabeled", "mislabeled", "misplaced")
COVERED = 0.4  # IoU with an annotation from which a detection is of the same object
_IN_CROWD = 0.5  # fraction of a detection inside an ignored object, from which it counts as covered
_SAME_PLACE = 0.5  # IoU of an annotation and the detection of another class
_WELL_PLACED = 0.7  # IoU of an annotation that needs no correction


@dataclass(frozen=True)
class Annotated:
    """The annotations of an image: boxes float64 `[G, 4]` xyxy, labels int64 `[G]`, ignore bool `[G]`."""

    boxes: np.ndarray
    labels: np.ndarray
    ignore: np.ndarray


@dataclass(frozen=True)
class Finding:
    """One annotation to correct.

    Args:
        kind: One of `KINDS`.
        image: Index of the image in its data set.
        score: How certain it is, 0 .. 1, comparable within a kind.
        label: Label that the object should have.
        box: xyxy in pixels that it should have.
        object_index: Index of the annotation in the image, from 0; None if there is none.
    """

    kind: str
    image: int
    score: float
    label: int
    box: tuple[float, float, float, float]
    object_index: int | None = None


def find_unlabeled(image: int, detected: Merged, annotated: Annotated) -> Iterator[Finding]:
    """Yields the detections of any score that no annotation covers, one at each location."""
    covered = _overlaps(detected, annotated).max(axis=1, initial=0.0) >= COVERED
    ignored = annotated.boxes[annotated.ignore]
    covered |= _fractions_inside(detected.boxes, ignored).max(axis=1, initial=0.0) >= _IN_CROWD
    known = np.zeros((0, 4))
    for row in np.flatnonzero(~covered).tolist():
        box = detected.boxes[row : row + 1]
        if box_iou(box, known).max(initial=0.0) < COVERED:
            known = np.concatenate([known, box])
            yield _finding("unlabeled", image, detected, row, float(detected.scores[row]))


def find_misannotated(
    image: int, detected: Merged, annotated: Annotated, known: Sequence[int] | None = None
) -> Iterator[Finding]:
    """Yields annotations that the detections contradict: in their class, or in their location.

    A mislabeled object has a detection of another class at its location with a higher score than any of its own class, a
    misplaced one a detection of its class nearby and none where it is. The score is by how much, in score or in
    score times 1 - IoU. Annotations with labels that are not in `known` are skipped; None: the detector knows all.
    """
    overlaps = _overlaps(detected, annotated)
    owner = overlaps.argmax(axis=1) if overlaps.size else np.zeros(len(overlaps), dtype=int)
    judged = ~annotated.ignore if known is None else ~annotated.ignore & np.isin(annotated.labels, known)
    for index in np.flatnonzero(judged).tolist():
        iou, is_own_class = overlaps[:, index], detected.labels == annotated.labels[index]
        is_here = iou >= _SAME_PLACE
        own = detected.scores[is_here & is_own_class].max(initial=0.0)
        others = np.flatnonzero(is_here & ~is_own_class & (owner == index))
        if len(others) and detected.scores[others[0]] > own:
            yield _finding("mislabeled", image, detected, others[0], float(detected.scores[others[0]] - own), index)
            continue
        near = np.flatnonzero((iou >= COVERED) & is_own_class & (owner == index))
        if len(near) and iou[near].max() < _WELL_PLACED:
            score = float(detected.scores[near[0]] * (1 - iou[near[0]]))
            yield _finding("misplaced", image, detected, near[0], score, index)


def _finding(kind: str, image: int, detected: Merged, row: int, score: float, index: int | None = None) -> Finding:
    x1, y1, x2, y2 = (float(value) for value in detected.boxes[row])
    return Finding(kind, image, score, int(detected.labels[row]), (x1, y1, x2, y2), index)


def _overlaps(detected: Merged, annotated: Annotated) -> np.ndarray:
    return box_iou(detected.boxes, annotated.boxes)


def _fractions_inside(boxes: np.ndarray, regions: np.ndarray) -> np.ndarray:
    # fraction of each box [D] inside each region [R]
    low = np.maximum(boxes[:, None, :2], regions[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], regions[None, :, 2:])
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    fractions: np.ndarray = (high - low).clip(min=0).prod(axis=2) / areas[:, None]
    return fractions
