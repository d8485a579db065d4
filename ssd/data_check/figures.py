"""Figures of a data set: label statistics, objects that no prior matches, duplicate images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ssd.common.class_names import display_name
from ssd.data import DataError, DetectionDataset
from ssd.data_check.objects import Unmatched
from ssd.data_check.report import CheckReport
from ssd.inference.drawing import crop_around, draw_boxes, resize, save_grid, side_by_side
from ssd.reports.plots import figure_file

_CLASSES = 30  # maximum number in a chart
_UPRIGHT = 10  # classes above whose bars a number fits in a line
_COUNT = 24  # images of a grid
_WIDTH = 320


def save_figures(report: CheckReport, folder: Path) -> list[Path]:
    """Writes labels.png, and unmatched.png and duplicates.png if there are such objects and images.

    Args:
        report: Result of `check_data`.
        folder: Output folder; created if it does not exist.

    Returns:
        The files written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = [folder / "labels.png"]
    plot_labels(list(report.datasets.values()), written[0])
    for name, images in (("unmatched.png", _unmatched(report)), ("duplicates.png", _duplicates(report))):
        if chosen := [image for _, image in zip(range(_COUNT), images, strict=False)]:
            written.append(folder / name)
            save_grid(chosen, written[-1], columns=4 if name == "unmatched.png" else 2, width=_WIDTH)
    return written


def plot_labels(datasets: Sequence[DetectionDataset], path: Path) -> None:
    """Draws objects by class, sides and shapes of boxes, objects in an image, and positions of the centers.

    Args:
        datasets: Splits; their classes are merged by name.
        path: File to write.
    """
    counts: dict[str, int] = {}
    for dataset in datasets:
        for name, count in dataset.class_counts().items():
            counts[name] = counts.get(name, 0) + count
    ranked = sorted(counts.items(), key=lambda item: -item[1])
    boxes = np.concatenate([dataset.annotations.normalized_objects()[0] for dataset in datasets])
    per_image = np.concatenate([dataset.annotations.trainable_counts() for dataset in datasets])
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    with figure_file(path, 11, 8) as figure:
        first, second, third, fourth = figure.subplots(2, 2).ravel()
        listed = ranked[:_CLASSES]
        bars = first.bar(range(len(listed)), [count for _, count in listed])
        first.bar_label(bars, fontsize=8, rotation=90 if len(listed) > _UPRIGHT else 0, padding=2)
        first.margins(y=0.15)  # space for the numbers
        first.set_xticks(range(len(listed)), [display_name(name, 16) for name, _ in listed], rotation=90)
        more = f" ({len(ranked) - _CLASSES} more classes have fewer)" if len(ranked) > _CLASSES else ""
        first.set(title=f"objects by class{more}")
        if len(ranked) > 2 and ranked[0][1]:
            first.set_yscale("log")
            first.yaxis.set_major_formatter("{x:g}")  # powers would be written as formulas
            first.yaxis.set_minor_formatter("")
        second.hist(np.sqrt(width * height), bins=50, range=(0, 1))
        second.set(title="square root of the box area, relative to the image", xlabel="1: entire image")
        third.hist(per_image, bins=np.arange(per_image.max(initial=0) + 2) - 0.5)
        third.set(title="objects in an image")
        centers = (boxes[:, 0] + boxes[:, 2]) / 2, (boxes[:, 1] + boxes[:, 3]) / 2
        fourth.hist2d(*centers, bins=40, range=[[0, 1], [0, 1]], cmap="Blues")
        fourth.set(title="centers of boxes", aspect="equal")
        fourth.invert_yaxis()


def _unmatched(report: CheckReport) -> Iterator[Tensor]:
    """Yields crops of unmatched objects, evenly spaced over the data set."""
    objects = report.priors.unmatched if report.priors is not None else ()
    for row in np.unique(np.linspace(0, len(objects) - 1, min(len(objects), _COUNT)).astype(int)).tolist():
        try:
            yield _surroundings(objects[row])
        except DataError:
            continue  # already reported


def _surroundings(unmatched: Unmatched) -> Tensor:
    dataset, notes = unmatched.dataset, unmatched.dataset.annotations
    box = torch.from_numpy(notes.boxes[unmatched.row])
    part, offset = crop_around(dataset.load_image(unmatched.image), box)
    label = torch.tensor([int(notes.labels[unmatched.row])])
    return resize(draw_boxes(part, box[None] - offset, label, dataset.classes), _WIDTH)


def _duplicates(report: CheckReport) -> Iterator[Tensor]:
    indices = {
        (split, str(file)): index
        for split, dataset in report.datasets.items()
        for index, file in enumerate(dataset.annotations.files)
    }
    for found in report.duplicates:
        halves = [
            _with_ground_truth(report.datasets[split], indices[split, file])
            for split, file in ((found.other_split, found.other), (found.split, found.file))
        ]
        height = min(half.shape[1] for half in halves)
        yield side_by_side(*(half[:, :height] for half in halves))


def _with_ground_truth(dataset: DetectionDataset, index: int) -> Tensor:
    target = dataset.target(index)
    return resize(draw_boxes(dataset.load_image(index), target["boxes"], target["labels"], dataset.classes), _WIDTH)
