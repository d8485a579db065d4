"""Comparison of an exported program with its detector, on images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

import ssd_ops
from ssd.exporters.network import DetectorNetwork
from ssd.exporters.running import Program
from ssd.inference.detector import Detector

MIN_FOUND = 0.9  # fraction of the shown detections that a quantized program must find
BATCHES = (1, 3, 4)  # a program must take batches of any size


@dataclass(frozen=True)
class Comparison:
    """How far the detections of two programs are apart.

    Attributes:
        images: Number of images compared.
        detections: Number of detections of the detector.
        difference: Largest difference of a score or a coordinate (as a fraction of the image) between a detection and
            the closest one of the same class; 1 if there is none.
        shown: Number of the detector's detections with a score above the threshold of their class.
        found: How many of them the program has too, with an IoU of at least 0.5.
    """

    images: int
    detections: int
    difference: float
    shown: int
    found: int


def sample_images(side: int) -> list[Tensor]:
    """Returns images of drawn shapes [3, side, side] in 0..1, for use without images of the user."""
    from ssd.data.formats.shapes import ShapesDataset

    dataset = ShapesDataset("test", size=sum(BATCHES), image_size=side)
    return [dataset.load_image(index).float() / 255 for index in range(len(dataset))]


def compare(detector: Detector, program: Program, images: Sequence[Tensor], tolerance: float) -> Comparison:
    """Runs detector and program on images [3, S, S] in 0..1, in batches of several sizes.

    A detection within `tolerance` of the score threshold, or of the last of a full list, need not have a counterpart.
    """
    network = DetectorNetwork(detector.model)
    thresholds = detector.label_thresholds()
    total = Comparison(0, 0, 0.0, 0, 0)
    sizes = [*BATCHES, *[BATCHES[-1]] * len(images)]
    first = 0
    while first < len(images):
        batch = torch.stack(list(images[first : first + sizes.pop(0)]))
        first += len(batch)
        with torch.inference_mode():
            expected = ssd_ops.Detections(*network(batch))
        result = program(batch)
        for ours, theirs in zip(_by_image(expected), _by_image(result), strict=True):
            lowest = detector.model.preset.score_threshold
            if len(ours[1]) == expected.scores.shape[1]:  # a full list
                lowest = max(lowest, ours[1][-1].item(), theirs[1][-1].item() if len(theirs[1]) else 0.0)
            total = _added(total, ours, theirs, thresholds, lowest + tolerance)
    return total


def _by_image(detections: ssd_ops.Detections) -> list[tuple[Tensor, Tensor, Tensor]]:
    boxes, scores, labels, counts = detections
    return [(boxes[i, :n], scores[i, :n], labels[i, :n]) for i, n in enumerate(counts.tolist())]


def _added(
    total: Comparison,
    ours: tuple[Tensor, Tensor, Tensor],
    theirs: tuple[Tensor, Tensor, Tensor],
    thresholds: Tensor,
    needed_above: float,
) -> Comparison:
    """Returns the comparison with the detections (boxes, scores, labels) of another image."""
    boxes, scores, labels = ours
    other_boxes, other_scores, other_labels = theirs
    distance = (boxes[:, None] - other_boxes[None]).abs().amax(dim=2)
    distance = torch.maximum(distance, (scores[:, None] - other_scores[None]).abs())
    same = labels[:, None] == other_labels[None]
    distance = torch.where(same, distance, 1.0)
    difference = total.difference
    for axis, values in ((1, scores), (0, other_scores)):
        nearest = distance.amin(dim=axis) if distance.shape[axis] else torch.ones(len(values))
        needed = values > needed_above
        difference = max(difference, nearest[needed].max().item() if needed.any() else 0.0)
    shown = scores >= thresholds[labels]
    overlaps = (ssd_ops.box_iou(boxes, other_boxes) >= 0.5) & same
    found = shown & overlaps.any(dim=1)
    return Comparison(
        total.images + 1,
        total.detections + len(scores),
        difference,
        total.shown + int(shown.sum()),
        total.found + int(found.sum()),
    )
