"""A copy of a data set with the unlabeled objects that a review found, as COCO files; the original is only read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from ssd.common.cores import usable_cores
from ssd.data import DetectionDataset
from ssd.data_check.repair import write_repaired
from ssd.data_check.report import check_datasets
from ssd.data_review.report import Review, ReviewReport


def write_corrected(report: ReviewReport, folder: Path, path: str, label_from: float) -> str:
    """Writes the reviewed splits with their unlabeled objects, repaired as by `ssd data check --fix`.

    Mislabeled and misplaced objects stay as annotated: a person must decide on these.

    Args:
        report: Result of `review_data`.
        folder: New or empty folder.
        path: Folder of the original, for messages.
        label_from: Score from which an unlabeled object gets a label. Others are ignored in training.

    Returns:
        A line about what was written.
    """
    datasets = {review.split: with_unlabeled_objects(review, label_from) for review in report.reviews}
    repairs = write_repaired(check_datasets(datasets, path, usable_cores()), folder)
    found = [finding.score >= label_from for review in report.reviews for finding in review.of("unlabeled")]
    return f"{repairs}; {sum(found)} objects added, {len(found) - sum(found)} more added as ignored"


def with_unlabeled_objects(review: Review, label_from: float) -> DetectionDataset:
    """Returns a data set with the unlabeled objects of a review after the annotated ones of each image.

    Args:
        review: The review of one split.
        label_from: Score from which an object is annotated; those with lower scores are annotated as ignored.
    """
    dataset, found = review.dataset, review.of("unlabeled")
    notes = dataset.annotations
    images = np.array([finding.image for finding in found], dtype=np.int64)
    boxes = np.array([finding.box for finding in found], dtype=np.float32).reshape(-1, 4)
    labels = np.array([finding.label for finding in found], dtype=np.int64)
    ignore = np.array([finding.score < label_from for finding in found], dtype=bool)
    owner = np.concatenate([notes.images_of_objects(), images])
    order = np.argsort(owner, kind="stable")
    sides = boxes[:, 2:] - boxes[:, :2]
    coco = np.concatenate([boxes[:, :2], sides, sides.prod(axis=1, keepdims=True)], axis=1)
    corrected = dataset.subset(range(len(dataset)), dataset.name)
    corrected.annotations = replace(
        notes,
        boxes=np.concatenate([notes.boxes, boxes])[order],
        labels=np.concatenate([notes.labels, labels])[order],
        ignore=np.concatenate([notes.ignore, ignore])[order],
        offsets=np.concatenate([[0], np.cumsum(np.bincount(owner, minlength=len(notes)))]),
        coco=None if notes.coco is None else np.concatenate([notes.coco, coco])[order],
    )
    return corrected
