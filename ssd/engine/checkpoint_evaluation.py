"""Evaluation of a checkpoint on a data set, with the metrics of the evaluation in a run."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ssd.common.atomic_write import write_text
from ssd.common.class_names import column_titles
from ssd.config import TrainConfig
from ssd.config.choices import TRAINING_ONLY
from ssd.data import DetectionDataset, build_loader
from ssd.data.loading.shared_memory import fitting_workers
from ssd.data.registry import open_dataset
from ssd.data.splits import open_splits
from ssd.engine.evaluation import best_thresholds, curve_of, detect_all, metric_of, notices
from ssd.engine.progress import progress_bar
from ssd.engine.setup import batch_bytes
from ssd.evaluate import COCOResult, Evaluator, Records, VOCResult, voc_ap
from ssd.evaluate.confusion import confusion_matrix, pair_up, worst_errors
from ssd.evaluate.relabel import describe_map, map_classes, relabel
from ssd.inference.detector import Detector
from ssd.inference.graph import Images
from ssd.reports.error_gallery import describe_errors, save_gallery
from ssd.reports.plots import plot_confusion, plot_precision_recall
from ssd.reports.sample_images import label_thresholds
from ssd.transforms import build_transforms
from ssd_ops import Detections


@dataclass(frozen=True)
class EvaluationReport:
    """Metrics of an evaluation, the records they were computed from, and notices for the user."""

    dataset: DetectionDataset
    records: Records
    result: VOCResult | COCOResult
    curves: VOCResult
    notices: tuple[str, ...]
    images_skipped: int
    boxes_not_finite: int

    def __str__(self) -> str:
        return "\n".join([f"{self.dataset.name}:", str(self.result), *self.notices])

    def as_dict(self) -> dict[str, Any]:
        """Returns the metrics in the format of eval.json."""
        counts = {"images_skipped": self.images_skipped, "boxes_not_finite": self.boxes_not_finite}
        return {**self.result.as_dict(), **counts, "thresholds": best_thresholds(self.curves)}

    def score_thresholds(self, score_threshold: float | None) -> np.ndarray:
        """Returns the score threshold of each label, `[C + 1]`; the one with the best F1 if none is given."""
        if score_threshold is not None:
            return np.array([1.0, *[score_threshold] * len(self.dataset.classes)])
        return label_thresholds(self.dataset.classes, {c.name: c.score for c in self.curves.classes if c.tp})


def open_split(config: TrainConfig, split: str | None) -> DetectionDataset:
    """Opens the named split, or the one that training with this configuration evaluates on."""
    if split is None:
        splits = (config.train_split, config.val_split, config.val_share)
        return open_splits(config.dataset, config.data_path, *splits, config.dataset_options, TRAINING_ONLY)[1]
    options = {key: value for key, value in config.dataset_options.items() if key not in TRAINING_ONLY}
    return open_dataset(config.dataset, config.data_path, split, **options)


def evaluate_detector(
    detector: Detector,
    dataset: DetectionDataset,
    config: TrainConfig,
    detect: Callable[[Iterable[Images]], Iterator[Detections]] | None = None,
) -> EvaluationReport:
    """Runs a detector on a data set and computes the metrics.

    Args:
        detector: Detector; its classes are matched with those of the data set by name.
        dataset: Data set to evaluate on.
        config: Batch size, number of workers, metric and augmentation policy (which determines the resizing).
        detect: Yields the detections of batches of images; None: the detector's.

    Raises:
        DataError: Detector and data set have no class in common, or an image is invalid and `on_error` is "raise".
    """
    labels = map_classes(detector.classes, dataset.classes)
    size = detector.model.image_size
    resize = build_transforms(config.augmentation, size, train=False, **config.augmentation_options)
    workers, _ = fitting_workers(config.workers, batch_bytes(config, dataset, size))
    loader = build_loader(dataset, resize, config.batch_size, train=False, workers=workers)
    evaluator = Evaluator.of(dataset, metric_of(config))
    with loader.naming_lost_images():
        detect_all(detector.model, progress_bar(loader, True, desc="evaluation", leave=False), evaluator, detect)
    records = evaluator.records
    relabel(records, labels)
    result = evaluator.summarize()
    skipped, not_finite = dataset.num_listed - result.images, records.count_not_finite()
    messages = [*describe_map(labels, detector.classes, dataset.classes), *notices(dataset, skipped, not_finite)]
    curves = result if isinstance(result, VOCResult) else voc_ap(records, dataset.classes)
    return EvaluationReport(dataset, records, result, curves, tuple(messages), skipped, not_finite)


def save_report(report: EvaluationReport, folder: Path, *, worst: int, score_threshold: float | None) -> list[Path]:
    """Writes eval.json, pr.png, confusion.png, confusion.csv, errors.json and an image grid of each kind of error.

    Args:
        report: Result of `evaluate_detector`.
        folder: Output folder; created if it does not exist.
        worst: Maximum number of errors of each kind to list and draw.
        score_threshold: Minimum score of the detections in the confusion matrix; None: the threshold with the best F1
            of each class.

    Returns:
        The files written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    records, dataset = report.records, report.dataset
    write_text(folder / "eval.json", json.dumps(report.as_dict(), indent=2, allow_nan=False) + "\n")
    plot_precision_recall({c.name: curve_of(c) for c in report.curves.classes if c.objects}, folder / "pr.png")
    thresholds = report.score_thresholds(score_threshold)
    pairs = list(pair_up(records, thresholds))
    matrix = confusion_matrix(records, pairs, len(dataset.classes))
    write_text(folder / "confusion.csv", confusion_csv(matrix, dataset.classes))
    plot_confusion(matrix, dataset.classes, folder / "confusion.png")
    errors = worst_errors(records, pairs)
    about = describe_errors(errors, records, dataset, worst)
    write_text(folder / "errors.json", json.dumps(about, indent=1, allow_nan=False) + "\n")
    names = ("eval.json", "pr.png", "confusion.csv", "confusion.png", "errors.json")
    return [*(folder / name for name in names), *save_gallery(errors, records, dataset, thresholds, folder, worst)]


def confusion_csv(matrix: np.ndarray, classes: tuple[str, ...]) -> str:
    """Returns a confusion matrix as CSV: one row per ground truth class, then false positives; missed objects last."""
    titles = column_titles(classes, ("ground truth", "missed", "no object"))
    order = [*range(1, len(matrix)), 0]
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["ground truth", *titles, "missed"])
    for row, title in zip(order, [*titles, "no object"], strict=True):
        writer.writerow([title, *(int(matrix[row, column]) for column in order)])
    return text.getvalue()
