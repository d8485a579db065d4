"""COCO's average precision, computed by faster-coco-eval or pycocotools."""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ssd.common.class_names import display_name
from ssd.data.annotations import Annotations
from ssd.data.faults import DataError
from ssd.evaluate.coco_backends import evaluate_boxes
from ssd.evaluate.records import Records, nan_to_none

STATS = (
    "AP",
    "AP50",
    "AP75",
    "APsmall",
    "APmedium",
    "APlarge",
    "AR1",
    "AR10",
    "AR100",
    "ARsmall",
    "ARmedium",
    "ARlarge",
)
# Larger detections and objects are in no size range, not even in "all"; no image is as large.
_LARGEST_AREA = 1e10


@dataclass(frozen=True)
class COCOResult:
    """COCO's twelve metrics, and AP and AP50 of each class; NaN without ground truth (COCO's -1)."""

    stats: dict[str, float]
    per_class: dict[str, tuple[float, float]]  # name -> (AP, AP50)
    images: int

    @property
    def mean_ap(self) -> float:
        """AP over IoU 0.5 .. 0.95."""
        return self.stats["AP"]

    def as_dict(self) -> dict[str, object]:
        """Returns the numbers for JSON; NaN becomes None."""
        classes = {
            name: {"ap": nan_to_none(ap), "ap50": nan_to_none(ap50)} for name, (ap, ap50) in self.per_class.items()
        }
        return {
            "metric": "COCO AP",
            "mean_ap": nan_to_none(self.mean_ap),
            "images": self.images,
            "stats": {name: nan_to_none(value) for name, value in self.stats.items()},
            "classes": classes,
        }

    def __str__(self) -> str:
        have = {display_name(name): aps for name, aps in self.per_class.items() if not math.isnan(aps[0])}
        width = max([5, *map(len, have)])
        lines = [f"{name:<{width}} AP {ap:6.3f}  AP50 {ap50:6.3f}" for name, (ap, ap50) in have.items()]
        if len(have) < len(self.per_class):
            lines.append(f"{len(self.per_class) - len(have)} more classes have no objects here")
        numbers = {name: "n/a" if math.isnan(value) else f"{value:.3f}" for name, value in self.stats.items()}
        lines.append("  ".join(f"{name} {text}" for name, text in numbers.items()))
        return "\n".join(lines)


def coco_ap(
    records: Records,
    classes: Sequence[str],
    *,
    ground_truth: Annotations | None = None,
    unused_labels: Collection[int] = (),
    backend: str | None = None,
) -> COCOResult:
    """Computes COCO's average precision over the images of `records`.

    Args:
        records: Detections of all images; their ground truths are used if `ground_truth` is None.
        classes: Names without background; label i is `classes[i - 1]`.
        ground_truth: `annotations` of a `COCODataset`. Needed to reproduce published numbers: only these have crowd
            regions, segment areas (which decide between small, medium and large) and full precision.
        unused_labels: Labels without a class, which are not listed in the result.
        backend: `"faster_coco_eval"` or `"pycocotools"`, which compute the same numbers; default: the first if it is
            installed.

    Raises:
        DataError: A label outside `1 .. len(classes)`, or an image that `ground_truth` does not have.
    """
    records.check_labels(len(classes))
    labels = range(1, len(classes) + 1)
    if ground_truth is None or ground_truth.coco is None:
        objects = _objects_of_records(records)
    else:
        objects = _objects_of(ground_truth, ground_truth.coco, records)
    data: dict[str, Any] = {
        "images": [{"id": image_id} for image_id in records.image_ids],
        "categories": [{"id": label, "name": name} for label, name in zip(labels, classes, strict=True)],
    }
    detections = {**data, "annotations": _detections(records)}
    evaluation = evaluate_boxes({**data, "annotations": objects}, detections, records.image_ids, labels, backend)
    stats = {name: _or_nan(value) for name, value in zip(STATS, evaluation.stats[: len(STATS)], strict=True)}
    # [thresholds, recalls, classes, areas, max detections], -1 for a class without objects
    precision = evaluation.eval["precision"][..., 0, -1]
    per_class = {
        name: (_mean(precision[:, :, label - 1]), _mean(precision[0, :, label - 1]))
        for label, name in zip(labels, classes, strict=True)
        if label not in unused_labels
    }
    return COCOResult(stats, per_class, len(records.image_ids))


def _objects_of(ground_truth: Annotations, coco: np.ndarray, records: Records) -> list[dict[str, Any]]:
    index_of = {int(image_id): index for index, image_id in enumerate(ground_truth.image_ids)}
    missing = [image_id for image_id in records.image_ids if image_id not in index_of]
    if missing:
        raise DataError(f"the ground truth has no image with id {missing[0]} ({len(missing)} such ids)")
    out: list[dict[str, Any]] = []
    for image_id in records.image_ids:
        for row in range(*ground_truth.span(index_of[image_id])):
            *box, area = coco[row].tolist()
            crowd = int(ground_truth.ignore[row])
            # The evaluators store a match as the object's id, with 0 for no match, so ids start at 1.
            entry = {"id": len(out) + 1, "image_id": image_id, "category_id": int(ground_truth.labels[row])}
            out.append({**entry, "bbox": box, "area": area, "iscrowd": crowd})
    return out


def _objects_of_records(records: Records) -> list[dict[str, Any]]:
    out: list[dict[str, Any]] = []
    for index, image_id in enumerate(records.image_ids):
        objects = zip(records.gt_boxes[index], records.gt_labels[index], records.gt_ignore[index], strict=True)
        for box, label, ignore in objects:
            entry = _entry(image_id, int(label), box, len(out) + 1)
            out.append({**entry, "iscrowd": 0, "ignored": int(ignore)})
    return out


def _detections(records: Records) -> list[dict[str, Any]]:
    out: list[dict[str, Any]] = []
    for index, image_id in enumerate(records.image_ids):
        for box, score, label in zip(records.boxes[index], records.scores[index], records.labels[index], strict=True):
            out.append({**_entry(image_id, int(label), box, len(out) + 1), "iscrowd": 0, "score": float(score)})
    return out


def _entry(image_id: int, label: int, box: np.ndarray, number: int) -> dict[str, Any]:
    # A box that is not finite becomes a point, which overlaps nothing; both libraries would count NaN as a match.
    x1, y1, x2, y2 = box.tolist() if np.isfinite(box).all() else (0.0, 0.0, 0.0, 0.0)
    width, height = x2 - x1, y2 - y1
    area = min(max(width, 0.0) * max(height, 0.0), _LARGEST_AREA)  # so that it is in a size range
    return {"id": number, "image_id": image_id, "category_id": label, "bbox": [x1, y1, width, height], "area": area}


def _mean(values: np.ndarray) -> float:
    kept = values[values > -1]
    return float(kept.mean()) if kept.size else math.nan


def _or_nan(value: float) -> float:
    return float(value) if value > -1 else math.nan
