"""COCO's average precision, computed by faster-coco-eval or pycocotools."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ssd.data.coco import read_coco_json
from ssd.data.faults import DataError
from ssd.evaluate.coco_backends import evaluate_boxes
from ssd.evaluate.records import Records

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


@dataclass(frozen=True)
class COCOResult:
    """COCO's twelve numbers, and AP and AP50 of each class; -1 where there is no object to judge by, as in COCO."""

    stats: dict[str, float]
    per_class: dict[str, tuple[float, float]]  # name -> (AP, AP50)
    images: int

    @property
    def mean_ap(self) -> float:
        """AP over IoU 0.5 .. 0.95."""
        return self.stats["AP"]

    def as_dict(self) -> dict[str, object]:
        """Returns the numbers for JSON."""
        classes = {name: {"ap": ap, "ap50": ap50} for name, (ap, ap50) in self.per_class.items()}
        return {
            "metric": "COCO AP",
            "mean_ap": self.mean_ap,
            "images": self.images,
            "stats": self.stats,
            "classes": classes,
        }

    def __str__(self) -> str:
        width = max([5, *map(len, self.per_class)])
        # COCO's -1 says that a class has no objects here
        have = {name: aps for name, aps in self.per_class.items() if aps[0] >= 0}
        lines = [f"{name:<{width}} AP {ap:6.3f}  AP50 {ap50:6.3f}" for name, (ap, ap50) in have.items()]
        if len(have) < len(self.per_class):
            lines.append(f"{len(self.per_class) - len(have)} more classes have no objects here")
        lines.append("  ".join(f"{name} {value:.3f}" for name, value in self.stats.items()))
        return "\n".join(lines)


def coco_ap(
    records: Records,
    classes: Sequence[str],
    *,
    ground_truth: str | Path | dict[str, Any] | None = None,
    category_ids: Sequence[int] | None = None,
    backend: str | None = None,
) -> COCOResult:
    """Computes COCO's average precision over the images of `records`.

    Args:
        records: detections of all images; their ground truths are used where `ground_truth` is None.
        classes: names without background; label i is ``classes[i - 1]``.
        ground_truth: COCO JSON, a file or its content. Needed for the published numbers: crowd regions, the area of an
            object's segment (which sorts it into small, medium, large) and full precision are only there.
        category_ids: the id of each class in `ground_truth`, for `COCODataset` its ``category_ids``.
        backend: ``"faster_coco_eval"`` or ``"pycocotools"``, which give the same numbers; the first where it is
            installed.

    Raises:
        DataError: a label outside ``1 .. len(classes)``, or `ground_truth` without `category_ids`.
    """
    if ground_truth is None:
        category_ids = list(range(1, len(classes) + 1))
        data = _from_records(records, classes)
    else:
        if category_ids is None or len(category_ids) != len(classes):
            raise DataError(f"ground_truth needs category_ids, one for each of the {len(classes)} classes")
        data = clean_ground_truth(ground_truth if isinstance(ground_truth, dict) else read_coco_json(ground_truth))
    known = {image["id"] for image in data["images"]}
    missing = [image_id for image_id in records.image_ids if image_id not in known]
    if missing:
        raise DataError(f"the ground truth has no image with id {missing[0]} ({len(missing)} such ids)")
    found = {**data, "annotations": _detections(records, category_ids)}
    evaluation = evaluate_boxes(data, found, records.image_ids, category_ids, backend)
    stats = {name: float(value) for name, value in zip(STATS, evaluation.stats[: len(STATS)], strict=True)}
    # [thresholds, recalls, classes, areas, max detections], -1 where a class has no object; classes by rising id
    precision = evaluation.eval["precision"][..., 0, -1]
    known = {category["id"] for category in data["categories"]}  # not the gaps of a model that learns ids
    places = {category: place for place, category in enumerate(sorted(category_ids))}
    per_class = {
        name: (_mean(precision[:, :, places[category]]), _mean(precision[0, :, places[category]]))
        for name, category in zip(classes, category_ids, strict=True)
        if category in known
    }
    return COCOResult(stats, per_class, len(records.image_ids))


def clean_ground_truth(data: dict[str, Any]) -> dict[str, Any]:
    """Returns a COCO ground truth that pycocotools can take: whole-number ids, no annotation without image or box."""
    images = [{**image, "id": int(image["id"])} for image in data["images"]]
    ids = {image["id"] for image in images}
    annotations: list[dict[str, Any]] = []
    for item in data["annotations"]:
        box, image_id = item.get("bbox"), item.get("image_id")
        if not str(image_id).isdigit() or int(image_id) not in ids or not _is_box(box):
            continue
        area = item.get("area", box[2] * box[3])
        # The evaluator counts a match by the object's id and takes 0 for none, so ids start at 1 whatever the file has.
        fixed = {
            "id": len(annotations) + 1,
            "image_id": int(image_id),
            "area": area,
            "iscrowd": int(bool(item.get("iscrowd"))),
        }
        annotations.append({**item, **fixed})
    return {"images": images, "annotations": annotations, "categories": data["categories"]}


def _is_box(box: Any) -> bool:
    return isinstance(box, (list, tuple)) and len(box) == 4 and bool(np.isfinite(np.asarray(box, dtype=float)).all())


def _from_records(records: Records, classes: Sequence[str]) -> dict[str, Any]:
    annotations: list[dict[str, Any]] = []
    for index, image_id in enumerate(records.image_ids):
        objects = zip(records.gt_boxes[index], records.gt_labels[index], records.gt_ignore[index], strict=True)
        for box, label, ignore in objects:
            entry = _entry(image_id, int(label), box, len(annotations) + 1)
            annotations.append({**entry, "iscrowd": 0, "ignored": int(ignore)})
    return {
        "images": [{"id": image_id} for image_id in records.image_ids],
        "annotations": annotations,
        "categories": [{"id": label, "name": name} for label, name in enumerate(classes, start=1)],
    }


def _detections(records: Records, category_ids: Sequence[int]) -> list[dict[str, Any]]:
    out: list[dict[str, Any]] = []
    for index, image_id in enumerate(records.image_ids):
        for box, score, label in zip(records.boxes[index], records.scores[index], records.labels[index], strict=True):
            if not 1 <= label <= len(category_ids):
                raise DataError(f"labels of the detections must be in 1 .. {len(category_ids)}, got {label}")
            entry = _entry(image_id, category_ids[label - 1], box, len(out) + 1)
            out.append({**entry, "iscrowd": 0, "score": float(score)})
    return out


def _entry(image_id: int, category_id: int, box: np.ndarray, number: int) -> dict[str, Any]:
    x1, y1, x2, y2 = box.tolist()
    return {
        "id": number,
        "image_id": image_id,
        "category_id": category_id,
        "bbox": [x1, y1, x2 - x1, y2 - y1],
        "area": (x2 - x1) * (y2 - y1),
    }


def _mean(values: np.ndarray) -> float:
    kept = values[values > -1]
    return float(kept.mean()) if kept.size else -1.0
