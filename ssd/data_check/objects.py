"""Checks of objects: annotated twice, or matched by no prior."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ssd.common.class_names import display_name
from ssd.data import DetectionDataset, Fault
from ssd.data.annotations import describe_box
from ssd.evaluate.records import box_iou
from ssd.models import build_model
from ssd.priors.coverage import PriorCoverage, best_ious, prior_coverage
from ssd.priors.fit import fit_prior_sizes

UNMATCHED = "object that no prior matches"  # kind of fault
_KEPT = 10_000  # unmatched objects that are named
_TWICE = 0.95  # IoU of two boxes of one object
_BANDS = ((0.0, 16.0), (16.0, 32.0), (32.0, 96.0), (96.0, float("inf")))  # pixels of the input


def find_repeated_objects(dataset: DetectionDataset, images: Iterable[int] | None = None) -> Iterator[Fault]:
    """Yields the objects whose box and class another object of their image has.

    Args:
        dataset: The data set.
        images: Indices of the images to check; None: all.
    """
    notes = dataset.annotations
    for index in range(len(notes)) if images is None else images:
        rows = slice(*notes.span(index))
        boxes, labels = notes.boxes[rows].astype(float), notes.labels[rows]
        for two in sorted(repeated_rows(boxes, labels)):
            name = display_name(dataset.classes[labels[two] - 1])
            detail = f"{name} at {describe_box(boxes[two])} repeats an earlier object"
            yield Fault(str(notes.files[index]), "object annotated twice", detail)


def repeated_rows(boxes: np.ndarray, labels: np.ndarray) -> set[int]:
    """Returns the objects of an image, boxes `[G, 4]` and labels `[G]`, that repeat one before them."""
    if len(boxes) < 2:
        return set()
    alike = (box_iou(boxes, boxes) >= _TWICE) & (labels[:, None] == labels[None, :])
    return set(np.flatnonzero(np.tril(alike, -1).any(axis=1)).tolist())


@dataclass(frozen=True)
class Unmatched:
    """An object that no prior matches.

    Args:
        dataset: Its data set.
        row: Index in the annotations of the data set.
        side: Square root of its area in pixels of the model's input.
    """

    dataset: DetectionDataset
    row: int
    side: float

    @property
    def image(self) -> int:
        """Index of its image."""
        return int(np.searchsorted(self.dataset.annotations.offsets, self.row, side="right")) - 1

    @property
    def fault(self) -> Fault:
        """The fault to report."""
        notes = self.dataset.annotations
        name = display_name(self.dataset.classes[notes.labels[self.row] - 1])
        detail = f"{name} at {describe_box(notes.boxes[self.row])}, {self.side:.3g} px of the model's input"
        return Fault(str(notes.files[self.image]), UNMATCHED, detail)


@dataclass(frozen=True)
class PriorReport:
    """Objects that the priors of a model match, and those that they do not match."""

    coverage: PriorCoverage
    model: str
    image_size: int
    by_size: tuple[tuple[str, int, int], ...]  # (words, matched, objects)
    unmatched: tuple[Unmatched, ...]  # the first of them
    better_sizes: tuple[float, ...] = ()
    better_recall: float = 0.0

    def __str__(self) -> str:
        lines = [f"{self.model} with input {self.image_size}: {self.coverage}"]
        lines += [
            f"  {words}: {found} of {count} ({found / count:.1%})" for words, found, count in self.by_size if count
        ]
        if self.better_sizes:
            sizes = ", ".join(f"{size:g}" for size in self.better_sizes)
            lines.append(f"  prior sizes {sizes} would match {self.better_recall:.1%} (--fit-priors in training)")
        return "\n".join(lines)

    def as_dict(self) -> dict[str, Any]:
        """Returns the numbers for JSON."""
        names = zip(self.coverage.names, self.coverage.matched, self.coverage.objects, strict=True)
        return {
            "model": self.model,
            "image_size": self.image_size,
            "recall": self.coverage.recall,
            "by_class": {name: {"matched": found, "objects": count} for name, found, count in names},
            "by_size": {words: {"matched": found, "objects": count} for words, found, count in self.by_size},
            "better_prior_sizes": list(self.better_sizes),
            "better_recall": self.better_recall,
        }


def check_priors(
    datasets: Sequence[DetectionDataset], name: str, image_size: int | None, **options: Any
) -> PriorReport | None:
    """Matches the priors of a model with all objects that are not ignored.

    Args:
        datasets: Splits with the same classes.
        name: Name of the model.
        image_size: Side of its input; None: the default.
        **options: Options of the model.

    Returns:
        The report, or None without objects.
    """
    boxes, labels, origins = _objects(datasets)
    if not len(boxes):
        return None
    classes = datasets[0].classes
    model = build_model(name, len(classes) + 1, image_size=image_size, **options)
    threshold = float(model.preset.match_iou_threshold)
    coverage = prior_coverage(model.priors, [boxes], [labels], classes, threshold)
    is_found = best_ious(model.priors, boxes) >= threshold
    sides = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1).sqrt() * model.image_size
    by_size = []
    for low, high in _BANDS:
        inside = (sides >= low) & (sides < high)
        words = f"sides of {low:g} to {high:g} px" if high < float("inf") else f"sides from {low:g} px"
        by_size.append((words, int(is_found[inside].sum()), int(inside.sum())))
    missed = torch.nonzero(~is_found).flatten()[:_KEPT].tolist()
    objects = tuple(Unmatched(datasets[origins[row, 0]], int(origins[row, 1]), float(sides[row])) for row in missed)
    found = PriorReport(coverage, name, model.image_size, tuple(by_size), objects)
    if coverage.advice(image_size=model.image_size) is None:
        return found
    sizes = fit_prior_sizes(model.prior_config, [boxes], [labels], iou_threshold=threshold)
    better = build_model(name, len(classes) + 1, image_size=image_size, **{**options, "prior_sizes": sizes})
    recall = prior_coverage(better.priors, [boxes], [labels], classes, threshold).recall
    return replace(found, better_sizes=sizes, better_recall=recall) if recall > coverage.recall else found


def _objects(datasets: Sequence[DetectionDataset]) -> tuple[Tensor, Tensor, np.ndarray]:
    """Returns normalized boxes, labels, and (index of the data set, row in its annotations) of objects not ignored."""
    boxes, labels, origins = [np.zeros((0, 4), np.float32)], [np.zeros(0, np.int64)], [np.zeros((0, 2), np.int64)]
    for number, dataset in enumerate(datasets):
        rows = np.flatnonzero(~dataset.annotations.ignore)
        own_boxes, own_labels = dataset.annotations.normalized_objects()
        boxes.append(own_boxes)
        labels.append(own_labels)
        origins.append(np.stack([np.full(len(rows), number), rows], axis=1))
    return torch.from_numpy(np.concatenate(boxes)), torch.from_numpy(np.concatenate(labels)), np.concatenate(origins)
