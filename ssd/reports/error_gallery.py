"""Image crops of the worst errors of an evaluation, with ground truth on the left and detections on the right."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ssd.data import DetectionDataset
from ssd.data.faults import DataError
from ssd.evaluate.confusion import Pair, detection_label, gt_label
from ssd.evaluate.records import Records
from ssd.inference.drawing import crop_around, draw_boxes, resize, save_grid, side_by_side

_WIDTH = 640  # pixels of a drawn image


def save_gallery(
    errors: dict[str, list[Pair]],
    records: Records,
    dataset: DetectionDataset,
    thresholds: np.ndarray,  # [C + 1]
    folder: Path,
    count: int,
) -> list[Path]:
    """Writes an image grid for each kind of error that occurred.

    Args:
        errors: Result of `worst_errors`.
        records: Records of the evaluation.
        dataset: Evaluated data set.
        thresholds: Minimum score of a detection to draw, by label.
        folder: Output folder for the files `KIND.png`.
        count: Maximum number of images of each kind.

    Returns:
        The files written.
    """
    written = []
    for kind, pairs in errors.items():
        images: list[Tensor] = []
        for pair in pairs:
            if len(images) == count:
                break
            try:
                images.append(_draw_error(pair, records, dataset, thresholds))
            except DataError:
                continue  # the image has become unreadable; listed in the report of the data set
        if images:
            path = folder / f"{kind}.png"
            save_grid(images, path, width=_WIDTH)
            written.append(path)
    return written


def describe_errors(
    errors: dict[str, list[Pair]], records: Records, dataset: DetectionDataset, count: int
) -> dict[str, list[dict[str, Any]]]:
    """Returns the worst errors as JSON values: file, classes, score, boxes in pixels."""
    return {
        kind: [_describe(pair, records, dataset) for pair in pairs[:count] if count] for kind, pairs in errors.items()
    }


def _describe(pair: Pair, records: Records, dataset: DetectionDataset) -> dict[str, Any]:
    index = dataset.index_of(records.image_ids[pair.image])
    names: Sequence[str | None] = (None, *dataset.classes)
    found, gt = pair.detection, pair.gt
    return {
        "file": str(dataset.annotations.files[index]),
        "ground_truth": names[gt_label(records, pair)],
        "ground_truth_box": None if gt < 0 else records.gt_boxes[pair.image][gt].round(2).tolist(),
        "detected": names[detection_label(records, pair)],
        "detected_box": None if found < 0 else records.boxes[pair.image][found].round(2).tolist(),
        "score": None if found < 0 else round(float(records.scores[pair.image][found]), 4),
        "iou": round(pair.iou, 4),
    }


def _draw_error(pair: Pair, records: Records, dataset: DetectionDataset, thresholds: np.ndarray) -> Tensor:
    image = dataset.load_image(dataset.index_of(records.image_ids[pair.image]))
    boxes, gt_boxes = records.boxes[pair.image], records.gt_boxes[pair.image]
    box = boxes[pair.detection] if pair.detection >= 0 else gt_boxes[pair.gt]
    crop, origin = crop_around(image, torch.from_numpy(box))
    offset = origin.numpy()
    labels, scores = records.labels[pair.image], records.scores[pair.image]
    # A wrong detection is drawn alone, a missed object with all detections around it.
    rows = np.array([pair.detection]) if pair.detection >= 0 else np.flatnonzero(scores >= thresholds[labels])
    ground_truth = _draw_inside(crop, gt_boxes - offset, records.gt_labels[pair.image], None, dataset)
    predictions = _draw_inside(crop, boxes[rows] - offset, labels[rows], scores[rows], dataset)
    return resize(side_by_side(ground_truth, predictions), _WIDTH)


def _draw_inside(
    crop: Tensor, boxes: np.ndarray, labels: np.ndarray, scores: np.ndarray | None, dataset: DetectionDataset
) -> Tensor:
    height, width = crop.shape[1:]
    with np.errstate(invalid="ignore"):
        inside = (boxes[:, 2] > 0) & (boxes[:, 3] > 0) & (boxes[:, 0] < width) & (boxes[:, 1] < height)
    drawn_scores = None if scores is None else torch.from_numpy(scores[inside])
    return draw_boxes(
        crop, torch.from_numpy(boxes[inside]), torch.from_numpy(labels[inside]), dataset.classes, drawn_scores
    )
