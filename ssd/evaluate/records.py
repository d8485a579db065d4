"""Detections and ground truths of an evaluation, accumulated image by image as NumPy arrays."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from ssd.data.faults import DataError
from ssd.data.formats.field_values import as_int

_MAX_LABEL = 2**53  # every integer below is exact as a float


@dataclass
class Records:
    """Lists with one entry per image."""

    image_ids: list[int] = field(default_factory=list)
    boxes: list[np.ndarray] = field(default_factory=list)  # [D, 4] float64 each, xyxy pixels
    scores: list[np.ndarray] = field(default_factory=list)  # [D] float64
    labels: list[np.ndarray] = field(default_factory=list)  # [D] int64
    gt_boxes: list[np.ndarray] = field(default_factory=list)  # [G, 4] float64
    gt_labels: list[np.ndarray] = field(default_factory=list)  # [G] int64
    gt_ignore: list[np.ndarray] = field(default_factory=list)  # [G] bool
    _seen: set[int] = field(default_factory=set)

    def add(self, detections: Mapping[str, Any], target: Mapping[str, Any]) -> None:
        """Adds one image.

        Args:
            detections: Boxes `[D, 4]` xyxy in pixels, scores `[D]`, labels `[D]`; tensors or arrays.
            target: Boxes `[G, 4]`, labels `[G]`, ignore `[G]` (default: all False), image_id.

        Raises:
            DataError: The lengths differ, a score is NaN, a label or image_id is not an integer, an object has a box
                that is not finite, or the image was added before.
        """
        image_id = _image_id(target)
        if image_id in self._seen:
            raise DataError(f"image_id {image_id} was evaluated before; add each image once")
        _require(f"the detections of image_id {image_id}", detections, ("boxes", "scores", "labels"))
        _require(f"the target of image_id {image_id}", target, ("boxes", "labels"))
        boxes, scores = _box_array(detections["boxes"]), _vector("scores", detections["scores"], float)
        labels = _vector("labels", detections["labels"], int)
        gt_boxes, gt_labels = _box_array(target["boxes"]), _vector("labels", target["labels"], int)
        is_given = target.get("ignore") is not None
        ignore = _vector("ignore", target["ignore"], bool) if is_given else np.zeros(len(gt_labels), dtype=bool)
        if not len(boxes) == len(scores) == len(labels):
            raise DataError(
                f"detections of image_id {image_id} must have as many scores and labels as boxes, got "
                f"{len(boxes)} boxes, {len(scores)} scores, {len(labels)} labels"
            )
        if not len(gt_boxes) == len(gt_labels) == len(ignore):
            raise DataError(
                f"the target of image_id {image_id} must have as many labels and ignore flags as boxes, got "
                f"{len(gt_boxes)} boxes, {len(gt_labels)} labels, {len(ignore)} ignore flags"
            )
        if np.isnan(scores).any():
            raise DataError(f"scores of image_id {image_id} contain NaN, so they cannot be sorted")
        if not np.isfinite(gt_boxes).all():
            row = int(np.flatnonzero(~np.isfinite(gt_boxes).all(axis=1))[0])
            raise DataError(f"the target of image_id {image_id}: box {row} is not finite, got {gt_boxes[row].tolist()}")
        self._seen.add(image_id)
        self.image_ids.append(image_id)
        self.boxes.append(boxes)
        self.scores.append(scores)
        self.labels.append(labels)
        self.gt_boxes.append(gt_boxes)
        self.gt_labels.append(gt_labels)
        self.gt_ignore.append(ignore)

    def update(self, detections: Sequence[Mapping[str, Any]], targets: Sequence[Mapping[str, Any]]) -> None:
        """Adds the images of a batch."""
        if len(detections) != len(targets):
            raise DataError(
                f"update needs one target for each image's detections, got {len(detections)} and {len(targets)}"
            )
        for image_detections, target in zip(detections, targets, strict=True):
            self.add(image_detections, target)

    def check_labels(self, num_classes: int) -> None:
        """Raises `DataError` if a label is outside of 1 .. num_classes."""
        for name, parts in (("detections", self.labels), ("targets", self.gt_labels)):
            values = np.concatenate([np.empty(0), *parts])
            if len(values) and not (1 <= values.min() and values.max() <= num_classes):
                raise DataError(
                    f"labels of the {name} must be in 1 .. {num_classes}, got {values.min():g} .. {values.max():g}"
                )

    def count_not_finite(self) -> int:
        """Counts the detections with NaN or inf in their box, which are false positives."""
        return sum(int((~np.isfinite(boxes).all(axis=1)).sum()) for boxes in self.boxes)

    def sort(self, key: Callable[[int], int]) -> None:
        """Sorts the images by key(image_id), for example into the order of the data set."""
        order = sorted(range(len(self.image_ids)), key=lambda index: key(self.image_ids[index]))
        for name in ("image_ids", "boxes", "scores", "labels", "gt_boxes", "gt_labels", "gt_ignore"):
            values = getattr(self, name)
            setattr(self, name, [values[index] for index in order])

    def merge(self, other: "Records") -> None:
        """Adds the images of another process."""
        for index, image_id in enumerate(other.image_ids):
            self.add(
                {"boxes": other.boxes[index], "scores": other.scores[index], "labels": other.labels[index]},
                {
                    "boxes": other.gt_boxes[index],
                    "labels": other.gt_labels[index],
                    "ignore": other.gt_ignore[index],
                    "image_id": image_id,
                },
            )


def unpack_detections(detections: Any, sizes: Any) -> list[dict[str, np.ndarray]]:
    """Converts padded, normalized detections to one dict per image, with boxes in pixels of that image.

    Args:
        detections: Boxes `[B, D, 4]` in 0 .. 1, scores `[B, D]`, labels `[B, D]`, counts `[B]`
            (`ssd_ops.Detections`).
        sizes: `[B, 2]` height and width of each image.
    """
    boxes, scores, labels, counts = (
        _array(part, None) for part in (detections.boxes, detections.scores, detections.labels, detections.counts)
    )
    out = []
    for index, (height, width) in enumerate(_array(sizes, int).tolist()):
        kept = int(counts[index])
        scale = np.array([width, height, width, height], dtype=np.float64)
        out.append(
            {"boxes": boxes[index, :kept] * scale, "scores": scores[index, :kept], "labels": labels[index, :kept]}
        )
    return out


def box_iou(boxes1: np.ndarray, boxes2: np.ndarray, plus_one: bool = False) -> np.ndarray:
    """Returns the IoU `[N, M]` in float64; 0 if the union is empty or a box is not finite.

    Args:
        boxes1: `[N, 4]` xyxy.
        boxes2: `[M, 4]` xyxy.
        plus_one: Use sides of max - min + 1, as the VOC devkit does, whose boxes include their last pixel.
    """
    extra = 1.0 if plus_one else 0.0
    low = np.maximum(boxes1[:, None, :2], boxes2[None, :, :2])
    high = np.minimum(boxes1[:, None, 2:], boxes2[None, :, 2:])
    with np.errstate(invalid="ignore", over="ignore"):
        sides = np.clip(high - low + extra, 0.0, None)
        overlap = sides[..., 0] * sides[..., 1]
        area1 = (boxes1[:, 2:] - boxes1[:, :2] + extra).prod(axis=1)
        area2 = (boxes2[:, 2:] - boxes2[:, :2] + extra).prod(axis=1)
        union = area1[:, None] + area2[None, :] - overlap
        iou = overlap / np.where(union > 0, union, np.inf)
    finite: np.ndarray = np.nan_to_num(iou, nan=0.0, posinf=0.0, neginf=0.0)
    return finite


def nan_to_none(value: float) -> float | None:
    """Returns None for NaN, which JSON does not have, and any other number as it is."""
    return None if math.isnan(value) else value


def _require(name: str, values: Mapping[str, Any], keys: Sequence[str]) -> None:
    if missing := [key for key in keys if key not in values]:
        raise DataError(f"{name} must have {', '.join(keys)}; {missing[0]} is missing")


def _image_id(target: Mapping[str, Any]) -> int:
    value = target.get("image_id")
    if isinstance(value, (np.generic, np.ndarray, Tensor)):
        value = value.tolist()
        value = value[0] if isinstance(value, list) and len(value) == 1 else value
    number = as_int(value)
    if number is None:
        raise DataError(f"a target must have an image_id, an integer, got {value!r:.80}")
    return number


def _array(value: Any, dtype: Any) -> np.ndarray:
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        # numpy has no bfloat16
        value = (value.float() if value.is_floating_point() and value.element_size() < 4 else value).numpy()
    array: np.ndarray = np.asarray(value)
    if array.size and dtype in (int, float, bool) and array.dtype.kind not in "biuf":
        raise DataError(f"boxes, scores, labels and ignore flags must be numbers, got {array.flat[0]!r:.60}")
    if dtype is int and array.dtype.kind == "f":
        wrong = array[(array != np.trunc(array)) | ~(np.abs(array) < _MAX_LABEL)]
        if wrong.size:
            raise DataError(f"labels must be integers, got {wrong.flat[0]:g}")
    kind: Any = {float: np.float64, int: np.int64, bool: np.bool_, None: array.dtype}[dtype]
    return array.astype(kind, copy=False)


def _vector(name: str, value: Any, dtype: Any) -> np.ndarray:
    array = _array(value, dtype)
    if array.ndim != 1:
        raise DataError(f"{name} must have shape [N], got {list(array.shape)}")
    return array


def _box_array(value: Any) -> np.ndarray:
    array = _array(value, float)
    if array.size % 4 or (array.size and (array.ndim != 2 or array.shape[1] != 4)):
        raise DataError(f"boxes must have shape [N, 4], got {list(array.shape)}")
    return array.reshape(-1, 4)
