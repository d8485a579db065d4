"""Reviews the annotations of all splits of a data set with a detector; the findings as text and as JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from tqdm import tqdm

from ssd.common.class_names import display_name
from ssd.data import DetectionDataset
from ssd.data_review.findings import (
    KINDS,
    Annotated,
    Finding,
    find_misannotated,
    find_unlabeled,
)
from ssd.data_review.views import Merged, View, detect_in_views
from ssd.evaluate.relabel import describe_map, map_classes
from ssd.inference.detector import Detector

VIEWS = (View(), View(0.033), View(0.05, hflip=True), View(0.067, vflip=True))
_LISTED = 5  # findings of each kind in the text
_MIN_MISANNOTATED = 0.2  # score of a mislabeled or misplaced object that is reported


@dataclass(frozen=True)
class Review:
    """The findings of one split.

    Args:
        split: Its name.
        dataset: The split.
        findings: In descending order of score within each kind.
    """

    split: str
    dataset: DetectionDataset
    findings: tuple[Finding, ...]

    def of(self, kind: str) -> list[Finding]:
        """Returns the findings of a kind, the most certain ones first."""
        return [finding for finding in self.findings if finding.kind == kind]

    def annotated(self, finding: Finding) -> tuple[str, list[float]] | None:
        """Returns class and box of the annotation that a finding is about, or None."""
        if finding.object_index is None:
            return None
        notes = self.dataset.annotations
        row = notes.span(finding.image)[0] + finding.object_index
        return self.dataset.classes[int(notes.labels[row]) - 1], [float(value) for value in notes.boxes[row]]

    def as_dict(self, finding: Finding) -> dict[str, Any]:
        """Returns a finding for JSON."""
        before, notes = self.annotated(finding), self.dataset.annotations
        entry: dict[str, Any] = {
            "kind": finding.kind,
            "split": self.split,
            "file": str(notes.files[finding.image]),
            "score": round(finding.score, 4),
            "class": self.dataset.classes[finding.label - 1],
            "box": [round(value, 1) for value in finding.box],
        }
        if before is not None:
            annotated = {"class": before[0], "box": [round(value, 1) for value in before[1]]}
            entry |= {"object_index": finding.object_index, "annotated": annotated}
        return entry

    def describe(self, finding: Finding) -> str:
        """Returns a finding as a line."""
        x1, y1, x2, y2 = finding.box
        name = display_name(self.dataset.classes[finding.label - 1])
        before = self.annotated(finding)
        where = "" if before is None else f", object {finding.object_index} ({display_name(before[0])})"
        at = f"{name} at x {x1:.0f} .. {x2:.0f}, y {y1:.0f} .. {y2:.0f}"
        return (
            f"{self.dataset.annotations.files[finding.image]}{where}: {finding.kind}, {at}, score {finding.score:.2f}"
        )


@dataclass(frozen=True)
class ReviewReport:
    """Findings of all splits, and remarks for the user."""

    reviews: tuple[Review, ...]
    remarks: tuple[str, ...] = ()

    def ranked(self, kind: str) -> list[tuple[Review, Finding]]:
        """Returns the findings of a kind in all splits, the most certain ones first."""
        pairs = [(review, finding) for review in self.reviews for finding in review.of(kind)]
        return sorted(pairs, key=lambda pair: -pair[1].score)

    def as_dict(self) -> dict[str, Any]:
        """Returns everything for JSON."""
        return {
            "splits": {review.split: len(review.dataset) for review in self.reviews},
            "counts": {kind: len(self.ranked(kind)) for kind in KINDS},
            "findings": [review.as_dict(finding) for kind in KINDS for review, finding in self.ranked(kind)],
        }

    def __str__(self) -> str:
        lines = list(self.remarks)
        for kind in KINDS:
            pairs = self.ranked(kind)
            names = Counter(review.dataset.classes[finding.label - 1] for review, finding in pairs)
            classes = ", ".join(f"{display_name(name)} {count}" for name, count in names.most_common(20))
            lines.append(f"{kind}: {len(pairs)}" + (f" ({classes})" if classes else ""))
            lines += [f"  {review.describe(finding)}" for review, finding in pairs[:_LISTED]]
        return "\n".join(lines)


def review_data(
    detector: Detector,
    datasets: Mapping[str, DetectionDataset],
    *,
    min_score: float,
) -> ReviewReport:
    """Runs a detector on all splits and compares its detections with the annotations.

    Args:
        detector: Its classes are matched with those of the data by name.
        datasets: Split -> data set, with the same classes.
        min_score: Score from which detections without annotation are reported: the mean over the views. Scores are low
            where many objects of the training set lack annotations.

    Raises:
        DataError: Detector and data have no class in common.
    """
    first = next(iter(datasets.values()))
    labels = map_classes(detector.classes, first.classes)
    reviews = []
    for split, dataset in datasets.items():
        found = _review(detector, dataset, split, labels)
        kept = [f for f in found if f.score >= (min_score if f.kind == "unlabeled" else _MIN_MISANNOTATED)]
        reviews.append(Review(split, dataset, tuple(sorted(kept, key=lambda f: -f.score))))
    remarks = describe_map(labels, detector.classes, first.classes, missing="annotations are not reviewed")
    return ReviewReport(tuple(reviews), tuple(remarks))


def _review(detector: Detector, dataset: DetectionDataset, split: str, labels: np.ndarray) -> list[Finding]:
    findings: list[Finding] = []
    images = detect_in_views(detector, dataset, VIEWS)
    for index, merged in tqdm(images, desc=split, total=len(dataset), unit="image", disable=None, leave=False):
        mapped = labels[merged.labels]
        known = mapped > 0
        detections = Merged(merged.boxes[known], merged.scores[known], mapped[known])
        target = dataset.target(index)
        boxes = target["boxes"].double().numpy()
        annotated = Annotated(boxes, target["labels"].numpy(), target["ignore"].numpy())
        findings += find_unlabeled(index, detections, annotated)
        findings += find_misannotated(index, detections, annotated, labels.tolist())
    return findings
