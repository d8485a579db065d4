"""Matches detections with objects, and computes average precision.

Matching: each detection of a class, over all images by descending score (ties in the order in which they were added), is
compared with the object of its class and image that has the highest IoU (ties go to the first). If the IoU reaches the
threshold, the first detection of an object is correct and any other is a duplicate, even if it overlaps a second object;
if the object is ignored (difficult, crowd), the detection does not count. Below the threshold it is a false positive.
Since no detection tries a second object, no loop over detections is needed.
"""

from dataclasses import dataclass

import numpy as np

from ssd.evaluate.records import Records, box_iou

METHODS = ("area", "11point")
ERRORS = ("localization", "duplicate", "confusion", "background")


@dataclass(frozen=True)
class Matches:
    """The detections of one class by descending score with their best objects; no threshold is applied yet."""

    scores: np.ndarray  # [D]
    iou: np.ndarray  # [D] with the best object of the class, 0 if the image has none
    gt: np.ndarray  # [D] index of that object in the class, -1 for none
    other_iou: np.ndarray  # [D] with the best object of any other class that is not ignored
    gt_ignore: np.ndarray  # [G] bool, the class's objects


def match_classes(records: Records, num_classes: int, plus_one: bool = False) -> list[Matches]:
    """Finds the best object of each detection's class, and the best IoU with another class; one entry per class."""
    iou, gt, other = [np.empty(0)], [np.empty(0, dtype=np.int64)], [np.empty(0)]
    start = 0
    for index, boxes in enumerate(records.boxes):
        gt_labels, ignore = records.gt_labels[index], records.gt_ignore[index]
        if len(boxes) and len(gt_labels):
            matrix = box_iou(boxes, records.gt_boxes[index], plus_one)
            same = records.labels[index][:, None] == gt_labels[None, :]
            own = np.where(same, matrix, -1.0)
            best = own.argmax(axis=1)
            iou.append(own.max(axis=1).clip(0.0))
            gt.append(np.where(same.any(axis=1), best + start, -1))
            other.append(np.where(same | ignore[None, :], 0.0, matrix).max(axis=1))
        else:
            iou.append(np.zeros(len(boxes)))
            gt.append(np.full(len(boxes), -1))
            other.append(np.zeros(len(boxes)))
        start += len(gt_labels)
    labels, scores = (np.concatenate([np.empty(0), *part]) for part in (records.labels, records.scores))
    gt_labels = np.concatenate([np.empty(0), *records.gt_labels])
    gt_ignore = np.concatenate([np.empty(0, dtype=bool), *records.gt_ignore])
    records.check_labels(num_classes)
    all_iou, all_gt, all_other = np.concatenate(iou), np.concatenate(gt), np.concatenate(other)
    out = []
    for label in range(1, num_classes + 1):
        mine = np.flatnonzero(labels == label)
        mine = mine[np.argsort(-scores[mine], kind="stable")]
        rank = np.cumsum(gt_labels == label) - 1  # index of each object within its class
        own = np.where(all_gt[mine] >= 0, rank[all_gt[mine]] if len(rank) else -1, -1)
        out.append(Matches(scores[mine], all_iou[mine], own, all_other[mine], gt_ignore[gt_labels == label]))
    return out


def average_precision(correct: np.ndarray, objects: int, method: str = "area") -> float:
    """Returns the AP of a class.

    Args:
        correct: `[D]` bool, whether each detection is a true positive, by descending score.
        objects: Number of objects. Without objects AP is NaN; with objects and no detections it is 0.
        method: `"area"` or `"11point"`, the mean over the recalls 0, 1/10 .. 1. A recall of exactly k/10 reaches
            its step, as in the devkit and in Caffe; evaluators that compare with the float64 number k * 0.1 lose 0.3,
            0.6 and 0.7 (0.6 < 6 * 0.1).
    """
    if objects <= 0:
        return float("nan")
    if not correct.any():
        return 0.0
    hits = np.cumsum(correct)
    precision = hits / np.arange(1, len(correct) + 1)
    best_from_here = np.maximum.accumulate(precision[::-1])[::-1]
    if method == "11point":
        reached = hits[None, :] * 10 >= np.arange(11)[:, None] * objects
        values = [best_from_here[row.argmax()] if row.any() else 0.0 for row in reached]
        return float(np.mean(values))
    return float(best_from_here[correct].sum() / objects)
