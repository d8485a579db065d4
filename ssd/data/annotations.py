"""The annotations of a whole data set as a few flat arrays, and the checks that a box must pass to get in."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import torch

from ssd.data.faults import DataError, FaultLog, check_choice

Box = tuple[float, float, float, float]  # xyxy, pixels

# Boxes drawn up to the border often exceed it by a fraction of a pixel or a whole one. They are clipped silently.
_ROUNDING = 1.0


@dataclass(frozen=True)
class Annotations:
    """Annotations of N images with M objects.

    Flat arrays and not lists of objects: worker processes then share them with their parent, where the reference counts
    of a million Python objects would copy them page by page.
    """

    files: np.ndarray  # [N] str, path of the image
    image_ids: np.ndarray  # [N] int64
    sizes: np.ndarray  # [N, 2] int64, height and width
    boxes: np.ndarray  # [M, 4] float32, xyxy in pixels, 0-based, right and bottom edges exclusive
    labels: np.ndarray  # [M] int64, 1 .. C - 1
    ignore: np.ndarray  # [M] bool, difficult or crowd
    offsets: np.ndarray  # [N + 1] int64: objects offsets[i] : offsets[i + 1] belong to image i
    coco: np.ndarray | None = None  # [M, 5] float64, x, y, width, height and area as COCO's metric takes them, or None

    def __len__(self) -> int:
        return len(self.files)

    def target(self, index: int) -> dict[str, object]:
        """Returns the target dict of image `index`; its tensors are copies."""
        rows = slice(*self.span(index))
        return {
            "boxes": torch.from_numpy(self.boxes[rows].copy()),
            "labels": torch.from_numpy(self.labels[rows].copy()),
            "ignore": torch.from_numpy(self.ignore[rows].copy()),
            "image_id": int(self.image_ids[index]),
        }

    def span(self, index: int) -> tuple[int, int]:
        """Returns the first object of image `index` and the end of its objects."""
        return int(self.offsets[index]), int(self.offsets[index + 1])

    def images_of_objects(self) -> np.ndarray:
        """Returns the image of each object: int64 `[M]`."""
        return np.repeat(np.arange(len(self)), np.diff(self.offsets))

    def sides_of_objects(self) -> np.ndarray:
        """Returns width and height of the image of each object: int64 `[M, 2]`."""
        return self.sizes[self.images_of_objects(), ::-1]

    def trainable_counts(self) -> np.ndarray:
        """Returns the number of objects of each image that are not ignored: int64 `[N]`."""
        counted = np.concatenate([[0], np.cumsum(~self.ignore)])
        return np.diff(counted[self.offsets])

    def normalized_objects(self, max_images: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Returns boxes float32 `[M, 4]` relative to their image, and labels `[M]`, of objects that are not ignored.

        Args:
            max_images: Maximum number of images to use; of more, evenly spaced ones are used. None: all.
        """
        step = 1 if max_images is None else -(-len(self) // max_images)
        notes = self if step <= 1 else self.subset(range(0, len(self), step))
        kept = ~notes.ignore
        sides = notes.sides_of_objects()[kept].astype(np.float32)
        return notes.boxes[kept] / np.tile(sides, 2), notes.labels[kept]

    def subset(self, rows: Sequence[int]) -> "Annotations":
        """Returns the annotations of some images, in the order given."""
        images = np.asarray(rows, dtype=np.int64)
        starts, counts = self.offsets[images], np.diff(self.offsets)[images]
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        objects = np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], counts)
        per_image = {"files", "image_ids", "sizes"}
        parts: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "offsets"}
        chosen: dict[str, Any] = {
            k: v if v is None else v[images if k in per_image else objects] for k, v in parts.items()
        }
        return Annotations(**chosen, offsets=offsets)


@dataclass
class AnnotationsBuilder:
    """Collects images one by one and packs them.

    Args:
        empty: `"keep"` or `"drop"` images without objects that are not ignored.

    Raises:
        DataError: `empty` is neither.
    """

    empty: str = "keep"
    dropped: int = 0
    _files: list[str] = field(default_factory=list)
    _image_ids: list[int] = field(default_factory=list)
    _sizes: list[tuple[int, int]] = field(default_factory=list)
    _counts: list[int] = field(default_factory=list)
    _boxes: list[Box] = field(default_factory=list)
    _labels: list[int] = field(default_factory=list)
    _ignore: list[bool] = field(default_factory=list)
    _coco: list[Sequence[float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        check_choice("empty", self.empty, ("keep", "drop"))

    def add(
        self,
        file: str,
        image_id: int,
        size: tuple[int, int],
        boxes: Sequence[Box],
        labels: Sequence[int],
        ignore: Sequence[bool],
        coco: Sequence[Sequence[float]] = (),
    ) -> None:
        """Adds an image: its file, id, (height, width) and objects; `coco` as in `Annotations`, of all images or none."""
        if self.empty == "drop" and all(ignore):
            self.dropped += 1
            return
        self._files.append(file)
        self._image_ids.append(image_id)
        self._sizes.append(size)
        self._counts.append(len(boxes))
        self._boxes.extend(boxes)
        self._labels.extend(labels)
        self._ignore.extend(ignore)
        self._coco.extend(coco)

    def build(self, log: FaultLog, source: str) -> Annotations:
        """Packs everything added so far; `source` names the data set in messages.

        Raises:
            DataError: There is a fault with `on_error="raise"`, or no usable image.
        """
        log.check(source)
        if not self._files:
            first = f", the first: {log.faults[0]}" if log.faults else ""
            raise DataError(f"{source} has no usable image; {sum(log.counts.values())} faults{first}")
        return Annotations(
            files=np.array(self._files, dtype=np.str_),
            image_ids=np.array(self._image_ids, dtype=np.int64),
            sizes=np.array(self._sizes, dtype=np.int64).reshape(-1, 2),
            boxes=np.array(self._boxes, dtype=np.float32).reshape(-1, 4),
            labels=np.array(self._labels, dtype=np.int64),
            ignore=np.array(self._ignore, dtype=bool),
            offsets=np.concatenate([[0], np.cumsum(self._counts, dtype=np.int64)]).astype(np.int64),
            coco=np.array(self._coco, dtype=np.float64) if self._coco else None,
        )


def bounding_box(xs: Sequence[float], ys: Sequence[float]) -> Box:
    """Returns the bounding box of points; NaN where a coordinate is, which `min` and `max` may pass over."""
    if any(map(math.isnan, (*xs, *ys))):
        return (math.nan,) * 4
    return min(xs), min(ys), max(xs), max(ys)


def describe_box(box: Sequence[float] | np.ndarray) -> str:
    """Returns a box xyxy as text."""
    x1, y1, x2, y2 = map(float, box)
    return f"x {x1:g} .. {x2:g}, y {y1:g} .. {y2:g}"


def fit_box(box: Box, height: int, width: int) -> tuple[Box | None, str, str]:
    """Clips a box to its image and reports a fault.

    Args:
        box: xyxy in pixels, finite or not.
        height: Height of the image.
        width: Width of the image.

    Returns:
        (box, kind, detail): the box to use, None if it must be skipped; the kind of its fault, empty without one (up to
        one pixel over the border is rounding, not a fault); a description of the fault.
    """
    x1, y1, x2, y2 = box
    text = describe_box(box)
    if not all(map(math.isfinite, box)):
        return None, "box not finite", text
    if x2 <= x1 or y2 <= y1:
        return None, "box without area", text
    clipped = (max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height)))
    if clipped[2] <= clipped[0] or clipped[3] <= clipped[1]:
        return None, "box outside its image", f"{text}; the image is {width} x {height}"
    if max(abs(a - b) for a, b in zip(box, clipped, strict=True)) > _ROUNDING:
        return clipped, "box clipped to its image", f"{text}; the image is {width} x {height}"
    return clipped, "", ""
