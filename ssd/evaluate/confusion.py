"""The confusion matrix: pairs of detections and objects at one score threshold for each class.

An object is first paired with the detection of its class with the highest score (IoU at least 0.5), as in average
precision; the rest is paired across classes by descending IoU. A detection that overlaps only an ignored object does not
count.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ssd.evaluate.records import Records, box_iou

_MIN_IOU = 0.5  # of a pair


@dataclass(frozen=True)
class Pair:
    """An object and its detection, or one of the two alone.

    Args:
        image: Index in the records.
        detection: Index of the detection in its image, -1 if the object was missed.
        gt: Index of the object in its image, -1 if there is none.
        iou: IoU of the two; for a detection alone, its highest IoU with an object of any class.
    """

    image: int
    detection: int
    gt: int
    iou: float


def pair_up(records: Records, score_thresholds: np.ndarray) -> Iterator[Pair]:
    """Pairs the detections of all images with objects.

    Args:
        records: Detections and ground truths of an evaluation.
        score_thresholds: `[C + 1]` min score of a detection that counts, by label.
    """
    for image in range(len(records.image_ids)):
        yield from _pairs_of_image(records, image, score_thresholds)


def _pairs_of_image(records: Records, image: int, score_thresholds: np.ndarray) -> Iterator[Pair]:
    labels, scores = records.labels[image], records.scores[image]
    gt_labels, ignore = records.gt_labels[image], records.gt_ignore[image]
    rows = np.flatnonzero(scores >= score_thresholds[labels])
    rows = rows[np.argsort(-scores[rows], kind="stable")]
    iou = box_iou(records.boxes[image][rows], records.gt_boxes[image])
    same = labels[rows][:, None] == gt_labels[None, :]
    free = np.where(ignore[None, :], 0.0, iou)  # [D, G] IoU of pairs that are still possible
    partner = np.full(len(rows), -1)

    def pair(detection: int, gt: int) -> None:
        partner[detection] = gt
        free[detection, :] = free[:, gt] = 0.0

    for detection in range(len(rows)):
        own = np.where(same[detection], free[detection], 0.0)
        if own.size and own.max() >= _MIN_IOU:
            pair(detection, int(own.argmax()))
    while free.size and free.max() >= _MIN_IOU:
        pair(*map(int, np.unravel_index(int(free.argmax()), free.shape)))
    for detection, gt in enumerate(partner.tolist()):
        best = float(iou[detection].max(initial=0.0))
        if gt >= 0:
            yield Pair(image, int(rows[detection]), gt, float(iou[detection, gt]))
        elif not (iou[detection][ignore] >= _MIN_IOU).any():
            yield Pair(image, int(rows[detection]), -1, best)
    for gt in np.flatnonzero(~ignore & ~np.isin(np.arange(len(gt_labels)), partner)).tolist():
        yield Pair(image, -1, gt, 0.0)


def confusion_matrix(records: Records, pairs: Sequence[Pair], num_classes: int) -> np.ndarray:
    """Counts pairs by class.

    Args:
        records: Detections and ground truths of an evaluation.
        pairs: The pairs that `pair_up` returns.
        num_classes: Number of classes without the background.

    Returns:
        int64 `[num_classes + 1, num_classes + 1]`: rows are classes of objects, columns classes of detections. Row 0
        counts detections without an object, column 0 objects without a detection.
    """
    matrix = np.zeros((num_classes + 1, num_classes + 1), dtype=np.int64)
    for pair in pairs:
        matrix[gt_label(records, pair), detection_label(records, pair)] += 1
    return matrix


def gt_label(records: Records, pair: Pair) -> int:
    """Returns the label of a pair's object, 0 without one."""
    return int(records.gt_labels[pair.image][pair.gt]) if pair.gt >= 0 else 0


def detection_label(records: Records, pair: Pair) -> int:
    """Returns the label of a pair's detection, 0 without one."""
    return int(records.labels[pair.image][pair.detection]) if pair.detection >= 0 else 0


def worst_errors(records: Records, pairs: Sequence[Pair]) -> dict[str, list[Pair]]:
    """Returns the errors by kind, the worst first.

    Returns:
        `"false_positives"` and `"confusions"` (detected as another class) by descending score, `"missed"` objects by
        descending area.
    """

    def score(pair: Pair) -> float:
        return -float(records.scores[pair.image][pair.detection])

    def area(pair: Pair) -> float:
        x1, y1, x2, y2 = map(float, records.gt_boxes[pair.image][pair.gt])
        return -(x2 - x1) * (y2 - y1)

    wrong = [pair for pair in pairs if gt_label(records, pair) != detection_label(records, pair)]
    return {
        "false_positives": sorted((pair for pair in wrong if pair.gt < 0), key=score),
        "confusions": sorted((pair for pair in wrong if pair.gt >= 0 and pair.detection >= 0), key=score),
        "missed": sorted((pair for pair in wrong if pair.detection < 0), key=area),
    }
