"""Pictures of the worst errors of an evaluation: the surroundings of each, the truth left and the detections right."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ssd.data import DetectionDataset
from ssd.data.faults import DataError
from ssd.evaluate.confusion import Pair, found_of, truth_of
from ssd.evaluate.records import Records
from ssd.inference.drawing import crop_around, draw_boxes, resize, save_grid, side_by_side

_WIDTH = 640  # of a picture


def save_gallery(
    errors: dict[str, list[Pair]],
    records: Records,
    dataset: DetectionDataset,
    lowest: np.ndarray,
    folder: Path,
    count: int,
) -> list[Path]:
    """Writes a grid of pictures for each kind of error that occurred.

    Args:
        errors: Of `worst_errors`.
        records: Of the evaluation.
        dataset: That was evaluated on.
        lowest: `[C + 1]` lowest score of a detection that is drawn, by label.
        folder: Where `KIND.png` is written.
        count: Pictures of each kind.

    Returns:
        The files written.
    """
    written = []
    for kind, pairs in errors.items():
        pictures: list[Tensor] = []
        for pair in pairs:
            if len(pictures) == count:
                break
            try:
                pictures.append(_picture(pair, records, dataset, lowest))
            except DataError:
                continue  # the image cannot be read now; named in the data set's report
        if pictures:
            path = folder / f"{kind}.png"
            save_grid(pictures, path, width=_WIDTH)
            written.append(path)
    return written


def describe_errors(
    errors: dict[str, list[Pair]], records: Records, dataset: DetectionDataset, count: int
) -> dict[str, list[dict[str, Any]]]:
    """Returns the worst errors for JSON: file, classes, score, boxes in pixels."""
    return {
        kind: [_describe(pair, records, dataset) for pair in pairs[:count] if count] for kind, pairs in errors.items()
    }


def _describe(pair: Pair, records: Records, dataset: DetectionDataset) -> dict[str, Any]:
    index = dataset.index_of(records.image_ids[pair.image])
    names: Sequence[str | None] = (None, *dataset.classes)
    found, gt = pair.detection, pair.gt
    return {
        "file": str(dataset.annotations.files[index]),
        "truth": names[truth_of(records, pair)],
        "truth_box": None if gt < 0 else records.gt_boxes[pair.image][gt].round(2).tolist(),
        "found": names[found_of(records, pair)],
        "found_box": None if found < 0 else records.boxes[pair.image][found].round(2).tolist(),
        "score": None if found < 0 else round(float(records.scores[pair.image][found]), 4),
        "iou": round(pair.iou, 4),
    }


def _picture(pair: Pair, records: Records, dataset: DetectionDataset, lowest: np.ndarray) -> Tensor:
    image = dataset.load_image(dataset.index_of(records.image_ids[pair.image]))
    boxes, gt_boxes = records.boxes[pair.image], records.gt_boxes[pair.image]
    box = boxes[pair.detection] if pair.detection >= 0 else gt_boxes[pair.gt]
    part, cut = crop_around(image, torch.from_numpy(box))
    offset = cut.numpy()
    labels, scores = records.labels[pair.image], records.scores[pair.image]
    # a wrong detection is shown alone, a missed object with all that was found around it
    rows = np.array([pair.detection]) if pair.detection >= 0 else np.flatnonzero(scores >= lowest[labels])
    truth = _drawn(part, gt_boxes - offset, records.gt_labels[pair.image], None, dataset)
    found = _drawn(part, boxes[rows] - offset, labels[rows], scores[rows], dataset)
    return resize(side_by_side(truth, found), _WIDTH)


def _drawn(
    part: Tensor, boxes: np.ndarray, labels: np.ndarray, scores: np.ndarray | None, dataset: DetectionDataset
) -> Tensor:
    height, width = part.shape[1:]
    with np.errstate(invalid="ignore"):
        inside = (boxes[:, 2] > 0) & (boxes[:, 3] > 0) & (boxes[:, 0] < width) & (boxes[:, 1] < height)
    shown_scores = None if scores is None else torch.from_numpy(scores[inside])
    return draw_boxes(
        part, torch.from_numpy(boxes[inside]), torch.from_numpy(labels[inside]), dataset.classes, shown_scores
    )
