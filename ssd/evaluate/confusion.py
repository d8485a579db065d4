"""Which class each object was found as: pairs of detections and objects at one score threshold for each class.

An object first goes to the detection of its class with the highest score (IoU at least 0.5), as in average precision;
what is left is paired across classes by falling IoU. A detection on an ignored object, and nothing else, counts for
nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ssd.evaluate.records import Records, box_iou


@dataclass(frozen=True)
class Pair:
    """An object and the detection that found it, or one of the two alone.

    Args:
        image: Index in the records.
        detection: Row of the detection in its image, -1 where the object was missed.
        gt: Row of the object in its image, -1 where there is none.
        iou: Of the two; of a lone detection with its nearest object of any class.
    """

    image: int
    detection: int
    gt: int
    iou: float


def pair_up(records: Records, lowest: np.ndarray, iou_threshold: float = 0.5) -> Iterator[Pair]:
    """Pairs the detections of all images with objects.

    Args:
        records: Of an evaluation.
        lowest: `[C + 1]` lowest score of a detection that counts, by label.
        iou_threshold: Of a pair.
    """
    for image in range(len(records.image_ids)):
        yield from _pairs_of_image(records, image, lowest, iou_threshold)


def _pairs_of_image(records: Records, image: int, lowest: np.ndarray, threshold: float) -> Iterator[Pair]:
    labels, scores = records.labels[image], records.scores[image]
    gt_labels, ignore = records.gt_labels[image], records.gt_ignore[image]
    rows = np.flatnonzero(scores >= lowest[labels])
    rows = rows[np.argsort(-scores[rows], kind="stable")]
    iou = box_iou(records.boxes[image][rows], records.gt_boxes[image])
    same = labels[rows][:, None] == gt_labels[None, :]
    free = np.where(ignore[None, :], 0.0, iou)  # [D, G] of what can still be paired
    partner = np.full(len(rows), -1)

    def take(detection: int, gt: int) -> None:
        partner[detection] = gt
        free[detection, :] = free[:, gt] = 0.0

    for detection in range(len(rows)):
        own = np.where(same[detection], free[detection], 0.0)
        if own.size and own.max() >= threshold:
            take(detection, int(own.argmax()))
    while free.size and free.max() >= threshold:
        take(*map(int, np.unravel_index(int(free.argmax()), free.shape)))
    for detection, gt in enumerate(partner.tolist()):
        best = float(iou[detection].max(initial=0.0))
        if gt >= 0:
            yield Pair(image, int(rows[detection]), gt, float(iou[detection, gt]))
        elif not (iou[detection][ignore] >= threshold).any():
            yield Pair(image, int(rows[detection]), -1, best)
    for gt in np.flatnonzero(~ignore & ~np.isin(np.arange(len(gt_labels)), partner)).tolist():
        yield Pair(image, -1, gt, 0.0)


def confusion_matrix(records: Records, pairs: Sequence[Pair], num_classes: int) -> np.ndarray:
    """Counts pairs by class.

    Args:
        records: Of an evaluation.
        pairs: Of `pair_up`.
        num_classes: Without the background.

    Returns:
        int64 `[num_classes + 1, num_classes + 1]`: rows are the class of the object, columns the class found. Row 0
        counts detections without an object, column 0 objects without a detection.
    """
    matrix = np.zeros((num_classes + 1, num_classes + 1), dtype=np.int64)
    for pair in pairs:
        matrix[truth_of(records, pair), found_of(records, pair)] += 1
    return matrix


def truth_of(records: Records, pair: Pair) -> int:
    """Returns the label of a pair's object, 0 without one."""
    return int(records.gt_labels[pair.image][pair.gt]) if pair.gt >= 0 else 0


def found_of(records: Records, pair: Pair) -> int:
    """Returns the label of a pair's detection, 0 without one."""
    return int(records.labels[pair.image][pair.detection]) if pair.detection >= 0 else 0


def worst_errors(records: Records, pairs: Sequence[Pair]) -> dict[str, list[Pair]]:
    """Sorts what went wrong, the worst first.

    Returns:
        `"false_positives"` and `"confusions"` (a class taken for another) by falling score, `"missed"` objects by falling
        area.
    """

    def score(pair: Pair) -> float:
        return -float(records.scores[pair.image][pair.detection])

    def area(pair: Pair) -> float:
        x1, y1, x2, y2 = records.gt_boxes[pair.image][pair.gt].tolist()
        return -(x2 - x1) * (y2 - y1)

    wrong = [pair for pair in pairs if truth_of(records, pair) != found_of(records, pair)]
    return {
        "false_positives": sorted((pair for pair in wrong if pair.gt < 0), key=score),
        "confusions": sorted((pair for pair in wrong if pair.gt >= 0 and pair.detection >= 0), key=score),
        "missed": sorted((pair for pair in wrong if pair.detection < 0), key=area),
    }
