"""YOLO folders: an image's objects in a text file of its name, one per line: `class cx cy width height`.

Numbers are fractions of the image's sides; classes count from 0, so class k has the label k + 1. A line with more numbers
is a polygon (`class x1 y1 x2 y2 ...`), of which the bounding box is taken; where data.yaml has `kpt_shape`, it is a box
with keypoints, which are ignored. An image without a text file has no objects. The tools of this format apply EXIF
orientation, hence the default of `apply_exif`.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from ssd.common.file_tree import read_text
from ssd.data.annotations import AnnotationsBuilder, Box, bounding_box, fit_box
from ssd.data.dataset import DetectionDataset
from ssd.data.faults import DataError, Fault, FaultLog
from ssd.data.formats.field_values import as_names
from ssd.data.formats.yolo_layout import YOLOSplit, find_split, label_file, labels_without_image
from ssd.data.loading.images import image_size

_SLACK = 0.01  # how far beyond 0 .. 1 a number may be by rounding


class YOLODataset(DetectionDataset):
    """A split of a YOLO data set.

    An image's id is its index in the split, counted from 0.

    Args:
        root: Folder with data.yaml (or that file), or with classes.txt, images and labels; see
            `ssd.data.formats.yolo_layout.find_split`.
        split: Name of the split, such as `"train"` or `"val"`; `"all"` for every image.
        classes: Names that replace those of the file, in the same order.
        empty: `"keep"` or `"drop"` images without objects.
        on_error: Handling of faults in the files: `"skip"` drops the object or file, `"raise"` raises an error.
        allow_outside: Follow paths of data.yaml and of lists that leave `root`.
        apply_exif: Apply EXIF orientation; `"auto"` does so, because the files contain no sizes.

    Raises:
        DataError: No class names, no such split, no usable image, or a fault with `on_error="raise"`.
    """

    def __init__(
        self,
        root: str | Path,
        split: str = "train",
        *,
        classes: Sequence[str] | None = None,
        empty: str = "keep",
        on_error: str = "skip",
        allow_outside: bool = False,
        apply_exif: bool | str = "auto",
    ) -> None:
        builder = AnnotationsBuilder(empty)
        log = FaultLog(on_error)
        found = find_split(Path(root), split, allow_outside)
        if not found.images:
            raise DataError(
                f"yolo {split} of {root} has no images; exports of labels alone need them in a folder images beside labels"
            )
        names = as_names(classes) or found.classes
        if len(names) != len(found.classes):
            raise DataError(f"classes must name the {len(found.classes)} classes of {found.source}, got {len(names)}")
        unlabeled = 0
        for image_id, image in enumerate(found.images):
            unlabeled += _add_image(image, image_id, found, bool(apply_exif), builder, log)
        if not found.is_listed:
            for path in labels_without_image(found.images):
                log.add(Fault(str(path), "image missing", "no image has the name of this label file"))
        source = f"yolo {split} of {root}"
        notes = (f"{unlabeled} images have no label file, so no objects",) if unlabeled else ()
        super().__init__(source, names, builder, log, notes=notes, apply_exif=apply_exif)


def _add_image(
    image: Path, image_id: int, split: YOLOSplit, apply_exif: bool, builder: AnnotationsBuilder, log: FaultLog
) -> bool:
    # Adds an image with its objects; returns whether it had no label file.
    try:
        size = image_size(image, apply_exif=apply_exif)
    except DataError as error:
        log.add(Fault(str(image), "image missing" if not os.path.exists(image) else "image unreadable", str(error)))
        return False
    path = label_file(image)
    try:
        lines = _read_label(path).splitlines()
    except FileNotFoundError:
        builder.add(str(image), image_id, size, [], [], [])
        return True
    except DataError as error:
        log.add(Fault(str(path), "annotation malformed", str(error)))
        return False
    boxes: list[Box] = []
    labels: list[int] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        box, label, kind, detail = _parse(line.split(), split, *size)
        if kind:
            log.add(Fault(str(path), kind, detail, line=number))
        if box is not None:
            boxes.append(box)
            labels.append(label)
    builder.add(str(image), image_id, size, boxes, labels, [False] * len(boxes))
    return False


def _read_label(path: Path) -> str:
    try:
        return read_text(path)
    except FileNotFoundError:
        return read_text(path.with_suffix(".TXT"))


def _parse(fields: list[str], split: YOLOSplit, height: int, width: int) -> tuple[Box | None, int, str, str]:
    # (box in pixels or None, label, kind of the fault or "", its detail)
    num_classes = len(split.classes)
    if split.keypoint_values and len(fields) in (5 + split.keypoint_values, 6 + split.keypoint_values):
        del fields[5:]
    if len(fields) == 6:
        del fields[5]  # the confidence of a prediction, as ultralytics and `ssd predict --save yolo` write it
    if len(fields) != 5 and (len(fields) < 7 or len(fields) % 2 == 0):
        detail = f"expected 'class cx cy width height' or a polygon, got {len(fields)} numbers"
        return None, 0, "line malformed", detail
    try:
        number, *values = map(float, fields)
    except ValueError:
        return None, 0, "box not a number", " ".join(fields)[:80]
    if number not in range(num_classes):
        return None, 0, "unknown class", f"class {fields[0]} is not in 0 .. {num_classes - 1}"
    if any(value < -_SLACK or value > 1 + _SLACK for value in values):
        return None, 0, "box not normalized", f"{' '.join(fields[1:])[:80]}: expected fractions of the image, 0 .. 1"
    if len(values) == 4:
        cx, cy, w, h = values
        x1, y1, x2, y2 = cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2
    else:
        x1, y1, x2, y2 = bounding_box(values[::2], values[1::2])
    box, kind, detail = fit_box((x1 * width, y1 * height, x2 * width, y2 * height), height, width)
    return box, int(number) + 1, kind, detail
