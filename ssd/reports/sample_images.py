"""Images in a run folder: a batch as training sees it, detections of the last evaluation, and its confusion matrix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ssd.data import Batch, DetectionDataset
from ssd.data.faults import DataError
from ssd.evaluate import Evaluator
from ssd.evaluate.confusion import confusion_matrix, pair_up
from ssd.inference.detector import SCORE_THRESHOLD
from ssd.inference.drawing import draw_boxes, resize, save_grid, side_by_side
from ssd.reports.plots import plot_confusion


def draw_batch(batch: Batch, classes: tuple[str, ...], count: int, path: Path) -> None:
    """Saves a grid of images of a training batch after augmentation, with the annotations that the loss does not ignore."""
    images = batch.images if isinstance(batch.images, Tensor) else batch.images.render().round().to(torch.uint8).cpu()
    drawn = []
    for i, image in enumerate(images[:count]):
        rows = torch.arange(int(batch.offsets[i]), int(batch.offsets[i + 1]))
        rows = rows[~batch.ignore[rows]]
        side = image.shape[-1]
        drawn.append(draw_boxes(image, batch.gt_boxes[rows] * side, batch.gt_labels[rows], classes))
    if drawn:
        save_grid(drawn, path, columns=4, width=drawn[0].shape[-1])


def draw_confusion(
    evaluator: Evaluator, dataset: DetectionDataset, thresholds: Mapping[str, float], path: Path
) -> None:
    """Saves the confusion matrix at the score thresholds of the evaluation."""
    pairs = list(pair_up(evaluator.records, label_thresholds(dataset.classes, thresholds)))
    matrix = confusion_matrix(evaluator.records, pairs, len(dataset.classes))
    plot_confusion(matrix, dataset.classes, path)


def label_thresholds(classes: Sequence[str], thresholds: Mapping[str, float]) -> np.ndarray:
    """Returns the minimum score to display of each label, `[C + 1]`, from the thresholds of some classes."""
    return np.array([1.0, *(thresholds.get(name, SCORE_THRESHOLD) for name in classes)])


def draw_samples(
    evaluator: Evaluator, dataset: DetectionDataset, count: int, thresholds: Mapping[str, float], path: Path
) -> None:
    """Saves a grid of images with ground truth on the left and detections on the right.

    Args:
        evaluator: Detections of all images.
        dataset: The images with their ground truth.
        count: Number of images, evenly spaced over the data set.
        thresholds: Class -> lowest score to draw; classes without one have that of `Detector`.
        path: File to write.
    """
    records = evaluator.records
    min_scores = label_thresholds(dataset.classes, thresholds)
    images: list[Tensor] = []
    step = max(1, len(records.image_ids) // count)
    for i in range(0, len(records.image_ids), step):
        if len(images) == count:
            break
        index = dataset.index_of(records.image_ids[i])
        try:
            image = dataset.load_image(index)
        except DataError:
            continue  # listed in the report of the data set
        target, keep = dataset.target(index), records.scores[i] >= min_scores[records.labels[i]]
        predictions = draw_boxes(
            image,
            torch.from_numpy(records.boxes[i][keep]),
            torch.from_numpy(records.labels[i][keep]),
            dataset.classes,
            torch.from_numpy(records.scores[i][keep]),
        )
        ground_truth = draw_boxes(image, target["boxes"], target["labels"], dataset.classes)
        images.append(resize(side_by_side(ground_truth, predictions), 640))
    if images:
        save_grid(images, path)
