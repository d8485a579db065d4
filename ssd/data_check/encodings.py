"""Errors of an entire data set, detected by statistics: wrong box format or unit, class ids off by one.

One box proves nothing; many boxes that are all valid in another format, and often invalid in the declared one, do.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ssd.common.file_tree import read_text
from ssd.data import COCODataset, DataError, DetectionDataset, Fault, YOLODataset
from ssd.data.formats.coco_json import read_coco_json
from ssd.data.formats.field_values import as_int
from ssd.data.formats.yolo_layout import label_file

KINDS = (
    "classes off by one",
    "pixels instead of fractions",
    "percent instead of fractions",
    "fractions instead of pixels",
    "xyxy instead of cxcywh",
    "xywh instead of cxcywh",
    "xyxy instead of xywh",
    "xywh instead of xyxy",
    "cxcywh instead of xywh",
    "cxcywh instead of xyxy",
)
_ENOUGH = 20  # boxes, below which statistics prove nothing
_SLACK = 0.005  # tolerance for rounding, as a fraction of the image's side
_SOME_FILES = 500  # label files that the fast form reads again
_SMALL_JSON = 20_000_000  # bytes
_MORE_THAN_PERCENT = 200  # pixels: sides of images in which many boxes reach further than 100
_MIN_INVALID = 0.1  # fraction of the boxes that must be invalid as they are read
_MIN_BEYOND = (10, 0.02)  # boxes beyond the right or lower border, and their fraction, that prove centers


def find_encoding_errors(dataset: DetectionDataset, source: str, *, fast: bool = False) -> Iterator[Fault]:
    """Yields the errors that affect the entire data set.

    Args:
        dataset: The data set.
        source: File or folder that the faults name.
        fast: Whether to read only some of very many label files, and no JSON file of more than 20 MB.
    """
    if isinstance(dataset, YOLODataset):
        yield from _of_yolo(dataset, source, _SOME_FILES if fast else len(dataset))
    elif isinstance(dataset, COCODataset):
        if not fast or dataset.annotation_file.stat().st_size <= _SMALL_JSON:
            yield from _of_coco(dataset)
    else:
        yield from _of_corners(dataset, source)
    yield from _fractions_for_pixels(dataset, source)


def _of_yolo(dataset: YOLODataset, source: str, max_files: int) -> Iterator[Fault]:
    rows = _yolo_rows(dataset, max_files)
    if len(rows) < _ENOUGH:
        return
    ids, values = rows[:, 0], rows[:, 1:]
    count = len(dataset.classes)
    if ids.min() == 1 and ids.max() == count:
        detail = f"classes run from 1 to {count}, YOLO counts them from 0; subtract 1 from every class"
        yield Fault(source, "classes off by one", detail)
    if (values > 1 + _SLACK).any(axis=1).mean() > 0.5:
        is_percent = values.max() <= 100 * (1 + _SLACK) and np.median(dataset.annotations.sizes) > _MORE_THAN_PERCENT
        unit, divisor = ("percent", "100") if is_percent else ("pixels", "them")
        detail = f"coordinates reach {values.max():g}, YOLO has fractions of the image's sides; divide by {divisor}"
        yield Fault(source, f"{unit} instead of fractions", detail)
        return
    a, b, c, d = values.T
    outside = np.minimum(a - c / 2, b - d / 2) < -_SLACK
    outside |= np.maximum(a + c / 2, b + d / 2) > 1 + _SLACK
    if outside.mean() < _MIN_INVALID:
        return
    if ((c > a) & (d > b)).all():
        yield Fault(
            source, "xyxy instead of cxcywh", "numbers are x1 y1 x2 y2 in every line; YOLO has the center and the sides"
        )
    elif (np.maximum(a + c, b + d) <= 1 + _SLACK).all():
        yield Fault(source, "xywh instead of cxcywh", "numbers begin with the upper left corner; YOLO has the center")


def _yolo_rows(dataset: YOLODataset, max_files: int) -> np.ndarray:
    """Returns class and four numbers of every line with a box, as written, in a limited number of files."""
    rows = []
    for file in dataset.annotations.files[:: max(1, -(-len(dataset) // max_files))].tolist():
        try:
            lines = read_text(label_file(Path(file))).splitlines()
        except (DataError, OSError):
            continue
        for line in lines:
            fields = line.split()
            try:
                numbers = [float(field) for field in fields] if len(fields) == 5 else []
            except ValueError:
                continue
            if numbers and np.isfinite(numbers).all():
                rows.append(numbers)
    return np.array(rows).reshape(-1, 5)


def _of_coco(dataset: COCODataset) -> Iterator[Fault]:
    file = str(dataset.annotation_file)
    data = read_coco_json(dataset.annotation_file)
    known = {as_int(category.get("id")) for category in data["categories"]}
    ids = {as_int(item.get("category_id")) for item in data["annotations"] if isinstance(item, dict)}
    numbers = sorted(key for key in known if key is not None)
    used = sorted(key for key in ids if key is not None)
    for shift, words in ((1, "from one less than"), (-1, "from one more than")):
        if used and not set(used) <= set(numbers) and {key + shift for key in used} <= set(numbers):
            detail = f"category_id of annotations counts {words} the id of categories: {used[0]} .. {used[-1]}, "
            yield Fault(file, "classes off by one", f"{detail}categories {numbers[0]} .. {numbers[-1]}")
    boxes, sides = _coco_boxes(dataset, data)
    if len(boxes) < _ENOUGH:
        return
    slack = _SLACK * sides
    beyond = ((boxes[:, :2] + boxes[:, 2:]) > sides + slack).any(axis=1)
    if beyond.mean() >= _MIN_INVALID and (boxes[:, 2:] > boxes[:, :2]).all() and (boxes[:, 2:] <= sides + slack).all():
        yield Fault(file, "xyxy instead of xywh", "every bbox is x1, y1, x2, y2; COCO has x, y, width, height")
    elif beyond.sum() >= max(_MIN_BEYOND[0], _MIN_BEYOND[1] * len(beyond)) and _are_centers(boxes, sides):
        detail = f"{beyond.sum()} boxes end beyond their images, and with x, y as their centers all are inside; "
        detail += "COCO has the upper left corner: subtract half of width and height"
        yield Fault(file, "cxcywh instead of xywh", detail)


def _are_centers(boxes: np.ndarray, sides: np.ndarray) -> bool:
    """Returns whether all boxes `[N, 4]` are inside of their images, with width and height `[N, 2]`, as cxcywh."""
    low, high = boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2
    return bool((low >= -_SLACK * sides).all() and (high <= (1 + _SLACK) * sides).all())


def _coco_boxes(dataset: COCODataset, data: dict[str, list[dict[str, object]]]) -> tuple[np.ndarray, np.ndarray]:
    """Returns each bbox as written in the file, and width and height of its image."""
    notes = dataset.annotations
    rows = {int(image_id): index for index, image_id in enumerate(notes.image_ids)}
    boxes, sides = [], []
    for item in data["annotations"]:
        key = as_int(item.get("image_id")) if isinstance(item, dict) else None
        row = None if key is None else rows.get(key)
        box = item.get("bbox") if row is not None else None
        if not isinstance(box, list) or len(box) != 4 or not all(isinstance(v, (int, float)) for v in box):
            continue
        boxes.append(box)
        sides.append(notes.sizes[row][::-1])
    values = np.array(boxes, dtype=float).reshape(-1, 4)
    finite = np.isfinite(values).all(axis=1)
    return values[finite], np.array(sides, dtype=float).reshape(-1, 2)[finite]


def _of_corners(dataset: DetectionDataset, source: str) -> Iterator[Fault]:
    # The reader expects x1, y1, x2, y2; it keeps boxes x, y, width, height if width > x and height > y. Of such boxes
    # many begin so close to the corner of the image that half of them would be outside if x, y were their centers.
    notes = dataset.annotations
    lost = dataset.log.counts["box without area"]
    if len(notes.boxes) + lost < _ENOUGH or lost < _MIN_INVALID * (len(notes.boxes) + lost):
        return
    sides = notes.sides_of_objects()
    may_be_centers = _are_centers(notes.boxes, sides)
    detail = f"{lost} boxes have no area as x1, y1, x2, y2, and as "
    if may_be_centers and len(notes.boxes) >= _ENOUGH / 2:
        detail += "center, width, height all are inside their images"
        yield Fault(source, "cxcywh instead of xyxy", detail)
    elif (notes.boxes[:, :2] + notes.boxes[:, 2:] <= sides * (1 + _SLACK)).all():
        detail += f"x, y, width, height {'or center, width, height ' * may_be_centers}all are inside their images"
        yield Fault(source, "xywh instead of xyxy", detail)


def _fractions_for_pixels(dataset: DetectionDataset, source: str) -> Iterator[Fault]:
    boxes = dataset.annotations.boxes
    if len(boxes) >= _ENOUGH and boxes.max() <= 1 + _SLACK:
        detail = f"no coordinate is above {boxes.max():g} pixels; multiply by the sides of the images"
        yield Fault(source, "fractions instead of pixels", detail)
