"""COCO folders: one JSON of images, annotations and categories, and a folder of images.

Category ids have gaps (COCO's 80 go up to 90), so by default labels are their ranks: label i is
`category_ids[i - 1]`. Crowd regions become objects flagged `ignore`. Ids are 64-bit integers.
What COCO's metric needs beyond boxes, labels and crowds is stored in `annotations.coco`.
"""

import copy
import math
import reprlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ssd.data.annotations import AnnotationsBuilder, Box, bounding_box, fit_box
from ssd.data.dataset import DetectionDataset
from ssd.data.faults import DataError, Fault, FaultLog, check_choice
from ssd.data.formats.coco_json import read_categories, read_coco_json, with_gaps
from ssd.data.formats.coco_layout import find_layout
from ssd.data.formats.field_values import as_int, as_names, as_side, is_true
from ssd.data.formats.folders import split_path
from ssd.data.formats.image_finder import ImageFinder
from ssd.data.loading.images import image_size


class COCODataset(DetectionDataset):
    """A split of a COCO data set.

    Args:
        root: Folder of the data set, in a common layout, or in any other with `annotations` and `images`; or the JSON
            file.
        split: A split, such as `"train"` or `"val"`.
        annotations: The JSON file, for other layouts.
        images: Folder of the images, for other layouts.
        classes: Names of the categories to use, in the order of their labels; None: all of the file, by ascending id.
            Objects of other categories are dropped and counted in a note; a category id that the file does not list is
            a fault ("unknown class").
        labels: `"ranks"` numbers the classes without gaps (COCO's 80 have the labels 1 .. 80); `"ids"` uses the
            category ids, for models trained with them, such as torchvision's with 91 classes. The gaps become classes
            without objects, named "unused 12" and so on.
        crowd: `"ignore"` flags crowd regions; `"drop"` removes them, so that they become background.
        empty: `"keep"` or `"drop"` images without objects.
        on_error: Handling of faults in the files: `"skip"` drops the object or file, `"raise"` raises an error.
        apply_exif: Apply EXIF orientation; `"auto"` does so if the annotated sizes require it.

    Raises:
        DataError: No such layout, a file that is not a COCO JSON, no usable image, or a fault with `on_error="raise"`.
    """

    def __init__(
        self,
        root: str | Path,
        split: str = "train",
        *,
        annotations: str | Path | None = None,
        images: str | Path | None = None,
        classes: Sequence[str] | None = None,
        labels: str = "ranks",
        crowd: str = "ignore",
        empty: str = "keep",
        on_error: str = "skip",
        apply_exif: bool | str = "auto",
    ) -> None:
        check_choice("crowd", crowd, ("ignore", "drop"))
        check_choice("labels", labels, ("ranks", "ids"))
        builder = AnnotationsBuilder(empty)
        self.root, annotations = split_path(Path(root), annotations)
        self.annotation_file, folders = find_layout(self.root, split, annotations, images)
        log = FaultLog(on_error)
        data = read_coco_json(self.annotation_file)
        used = {as_int(item.get("category_id")) for item in data["annotations"] if isinstance(item, dict)}
        names, self.category_ids = read_categories(data["categories"], used, as_names(classes), self.annotation_file)
        if labels == "ids":
            names, self.category_ids = with_gaps(names, self.category_ids, classes is not None)
        finder = ImageFinder(self.root, folders, given=images is not None)
        reader = _Reader(self.annotation_file, self.category_ids, data["categories"], crowd, finder, log)
        reader.oriented = bool(apply_exif)
        grouped = reader.group(data["images"], data["annotations"])
        reader.find_images(data["images"])
        for index, item in enumerate(data["images"]):
            reader.add_image(item, index, grouped, builder)
        # with labels='ids': labels without a category in the file
        self.unused_labels = tuple(i for i, key in enumerate(self.category_ids, start=1) if key not in reader.known)
        source = f"coco {split} of {self.root}"
        notes = (f"{reader.other_categories} objects of other categories skipped",) if reader.other_categories else ()
        super().__init__(source, names, builder, log, notes=notes, apply_exif=apply_exif)

    def with_classes(self, classes: tuple[str, ...]) -> DetectionDataset:
        """See `DetectionDataset.with_classes`; the id of a category that the file does not have is -1."""
        part = copy.copy(self)
        ids = dict(zip(self.classes, self.category_ids, strict=True))
        part.category_ids = tuple(ids.get(name, -1) for name in classes)
        part.unused_labels = tuple(classes.index(self.classes[label - 1]) + 1 for label in self.unused_labels)
        return super(COCODataset, part).with_classes(classes)


class _Reader:
    """Converts the JSON's entries to annotations, and invalid ones to faults."""

    def __init__(
        self,
        file: Path,
        category_ids: tuple[int, ...],
        categories: list[dict[str, Any]],
        crowd: str,
        finder: ImageFinder,
        log: FaultLog,
    ) -> None:
        self.file = str(file)
        self.near = file.relative_to(finder.root) if file.is_relative_to(finder.root) else None
        self.labels = {category: label for label, category in enumerate(category_ids, start=1)}
        self.known = {as_int(category.get("id")) for category in categories}
        self.other_categories = 0
        self.crowd = crowd
        self.finder = finder
        self.files: list[Path | None] = []
        self.oriented = True  # whether sizes that the file lacks are those of the oriented images
        self.log = log

    def group(self, images: list[Any], annotations: list[Any]) -> dict[int, list[tuple[int, dict[str, Any]]]]:
        """Returns image id -> its annotations, each with its index in the file; those of no listed image are faults."""
        grouped: dict[int, list[tuple[int, dict[str, Any]]]] = {}
        for item in images:
            key = as_int(item.get("id")) if isinstance(item, dict) else None
            if key is not None:
                grouped[key] = []
        for index, item in enumerate(annotations):
            key = as_int(item.get("image_id")) if isinstance(item, dict) else None
            if key in grouped:
                grouped[key].append((index, item))
            else:
                what = f"image_id {item.get('image_id')!r:.40}" if isinstance(item, dict) else f"{reprlib.repr(item)}"
                self.log.add(Fault(self.file, "annotation of no image", what, index))
        return grouped

    def find_images(self, images: list[Any]) -> None:
        """Finds the files of all images, in the order of the JSON's list."""
        names = [item.get("file_name") if isinstance(item, dict) else None for item in images]
        self.files = self.finder.find_all((name if isinstance(name, str) else "", self.near) for name in names)

    def add_image(
        self,
        item: Any,
        index: int,
        grouped: dict[int, list[tuple[int, dict[str, Any]]]],
        builder: AnnotationsBuilder,
    ) -> None:
        """Adds entry `index` of the JSON's images with its objects."""
        image_id = as_int(item.get("id")) if isinstance(item, dict) else None
        if image_id is None or not isinstance(item.get("file_name"), str):
            self.log.add(Fault(self.file, "image entry malformed", f"entry {index}: {reprlib.repr(item)}"))
            return
        if image_id not in grouped:
            self.log.add(Fault(self.file, "image listed twice", f"id {image_id}, {item['file_name']:.200}"))
            return
        objects = grouped.pop(image_id)
        path = self.files[index]
        if path is None:
            detail = f"image_id {image_id}, file_name {item['file_name']!r:.200}: no such file in the data set"
            self.log.add(Fault(self.file, "image missing", detail))
            return
        size = self._size(item, image_id, path)
        if size is None:
            return
        height, width = size
        found = [self._object(annotation, height, width, row) for row, annotation in objects]
        kept = [entry for entry in found if entry is not None]
        boxes, labels, crowds, exact = ([entry[k] for entry in kept] for k in range(4))
        builder.add(str(path), image_id, (height, width), boxes, labels, crowds, exact)  # type: ignore[arg-type]

    def _size(self, item: dict[str, Any], image_id: int, path: Path) -> tuple[int, int] | None:
        values = item.get("height"), item.get("width")
        height, width = map(as_side, values)
        if height is not None and width is not None:
            return height, width
        if any(value not in (None, 0, "") for value in values):
            detail = f"image_id {image_id} has height {values[0]!r:.40}, width {values[1]!r:.40}"
            self.log.add(Fault(self.file, "image entry malformed", detail))
            return None
        try:
            return image_size(path, apply_exif=self.oriented)
        except DataError as error:
            self.log.add(Fault(str(path), "image unreadable", str(error)))
            return None

    def _object(
        self, item: dict[str, Any], height: int, width: int, index: int
    ) -> tuple[Box, int, bool, tuple[float, ...]] | None:
        category = as_int(item.get("category_id"))
        label = self.labels.get(category) if category is not None else None
        if label is None and category in self.known:
            self.other_categories += 1
            return None
        if label is None:
            detail = f"category_id {item.get('category_id')!r:.40} is not among the file's categories"
            self.log.add(Fault(self.file, "unknown class", detail, index))
            return None
        crowd = is_true(item.get("iscrowd"))
        if crowd and self.crowd == "drop":
            return None
        try:
            x, y, w, h = _corner_and_sides(item)
        except (KeyError, TypeError, ValueError, OverflowError):
            self.log.add(Fault(self.file, "box not a number", f"bbox {item.get('bbox')!r:.80}", index))
            return None
        box, kind, detail = fit_box((x, y, x + w, y + h), height, width)
        if kind:
            self.log.add(Fault(self.file, kind, f"annotation id {item.get('id')!s:.40}: {detail}", index))
        if box is None:
            return None
        if kind:  # clipped: evaluation uses the box that was kept
            x, y, w, h = box[0], box[1], box[2] - box[0], box[3] - box[1]
        return box, label, crowd, (x, y, w, h, self._area(item, w * h, index))

    def _area(self, item: dict[str, Any], of_box: float, index: int) -> float:
        """Returns the area of the segment, by which COCO sorts objects into small, medium and large."""
        value = item.get("area")
        if value is None:
            return of_box
        try:
            area = float(value)
        except (TypeError, ValueError, OverflowError):
            area = math.nan
        if math.isfinite(area) and area >= 0:
            return area
        self.log.add(Fault(self.file, "area not a number", f"area {value!r:.80}; the area of the box is used", index))
        return of_box


def _corner_and_sides(item: dict[str, Any]) -> Sequence[float]:
    # Some tools write polygons alone.
    polygons = item.get("segmentation")
    if item.get("bbox") or not isinstance(polygons, list):
        return [float(value) for value in item["bbox"]]
    xs = [float(x) for polygon in polygons for x in polygon[::2]]
    ys = [float(y) for polygon in polygons for y in polygon[1::2]]
    x1, y1, x2, y2 = bounding_box(xs, ys)
    return x1, y1, x2 - x1, y2 - y1
