"""COCO folders: one JSON of images, annotations and categories, and a folder of pictures.

Category ids have gaps (COCO's 80 go up to 90), so labels are their ranks unless asked otherwise: label i is
``category_ids[i - 1]``. Crowd
regions become objects flagged `ignore`. Ids of any size are kept, as 64-bit integers. EXIF orientation is ignored,
as by COCO's own tools. What COCO's metric asks for beyond boxes, labels and crowds is kept as ``annotations.coco``.
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ssd.data.annotations import AnnotationsBuilder, Box, fit_box
from ssd.data.coco_layout import find_layout
from ssd.data.dataset import DetectionDataset
from ssd.data.faults import DataError, Fault, FaultLog, check_choice

_MOST_IDS = 10_000  # classes that labels='ids' may make


class COCODataset(DetectionDataset):
    """A split of a COCO data set.

    Args:
        root: folder of the data set; one of the usual layouts, or any with `annotations` and `images` given.
        split: such as ``"train"`` or ``"val"``.
        annotations: the JSON file, where the layout is another.
        images: the folder of pictures, where the layout is another.
        classes: names of the categories to learn, in the order of their labels; all of the file, by rising id, where
            not given. Objects of the others are left out and counted in a note; a category id that the file does not
            list is a fault ("unknown class").
        labels: ``"ranks"`` numbers the classes without gaps (COCO's 80 have the labels 1 .. 80); ``"ids"`` takes the
            category ids themselves, for models trained so, such as torchvision's with 91 classes. The gaps become
            classes without objects, named "unused 12" and so on.
        crowd: ``"ignore"`` flags crowd regions; ``"drop"`` leaves them out, which makes background of them.
        empty: ``"keep"`` or ``"drop"`` images without objects.
        faults: ``"skip"`` or ``"refuse"``.
        apply_exif: turn the images as EXIF says; COCO's tools do not.

    Raises:
        DataError: no such layout, a file that is no COCO JSON, no usable image, or faults to be refused.
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
        faults: str = "skip",
        apply_exif: bool = False,
    ) -> None:
        check_choice("crowd", crowd, ("ignore", "drop"))
        check_choice("labels", labels, ("ranks", "ids"))
        builder = AnnotationsBuilder(empty)
        self.root = Path(root)
        self.annotation_file, self.image_folder = find_layout(self.root, split, annotations, images)
        log = FaultLog(faults)
        data = read_coco_json(self.annotation_file)
        names, self.category_ids = _categories(data["categories"], classes, self.annotation_file)
        if labels == "ids":
            names, self.category_ids = _with_gaps(names, self.category_ids, classes is not None)
        reader = _Reader(str(self.annotation_file), self.category_ids, data["categories"], crowd, log)
        grouped = reader.group(data["images"], data["annotations"])
        present = {path.name for path in self.image_folder.iterdir()} if self.image_folder.is_dir() else set()
        for index, item in enumerate(data["images"]):
            reader.add_image(item, index, grouped, self.image_folder, present, builder)
        # labels that no category of the file has, where labels are ids
        self.unused_labels = tuple(i for i, key in enumerate(self.category_ids, start=1) if key not in reader.known)
        source = f"coco {split} of {self.root}"
        notes = (f"{reader.not_asked_for} objects of other categories left out",) if reader.not_asked_for else ()
        super().__init__(source, names, builder, log, notes=notes, apply_exif=apply_exif)


class _Reader:
    """Turns the JSON's entries into annotations, and what is wrong with them into faults."""

    def __init__(
        self, file: str, category_ids: tuple[int, ...], categories: list[dict[str, Any]], crowd: str, log: FaultLog
    ) -> None:
        self.file = file
        self.labels = {category: label for label, category in enumerate(category_ids, start=1)}
        self.known = {_id(category.get("id")) for category in categories}
        self.not_asked_for = 0
        self.crowd = crowd
        self.log = log

    def group(self, images: list[Any], annotations: list[Any]) -> dict[int, list[tuple[int, dict[str, Any]]]]:
        """Returns image id -> its annotations, each with its index in the file; those of no listed image are faults."""
        grouped: dict[int, list[tuple[int, dict[str, Any]]]] = {}
        for item in images:
            key = _id(item.get("id")) if isinstance(item, dict) else None
            if key is not None:
                grouped[key] = []
        for index, item in enumerate(annotations):
            key = _id(item.get("image_id")) if isinstance(item, dict) else None
            if key in grouped:
                grouped[key].append((index, item))
            else:
                what = f"image_id {item.get('image_id')!r}" if isinstance(item, dict) else f"{item!r:.60}"
                self.log.add(Fault(self.file, "annotation of no image", what, index))
        return grouped

    def add_image(
        self,
        item: Any,
        index: int,
        grouped: dict[int, list[tuple[int, dict[str, Any]]]],
        folder: Path,
        present: set[str],
        builder: AnnotationsBuilder,
    ) -> None:
        """Adds entry `index` of the JSON's images with its objects."""
        image_id = _id(item.get("id")) if isinstance(item, dict) else None
        if image_id is None or not isinstance(item.get("file_name"), str):
            self.log.add(Fault(self.file, "image entry malformed", f"entry {index}: {item!r:.80}"))
            return
        if image_id not in grouped:
            self.log.add(Fault(self.file, "image listed twice", f"id {image_id}, {item['file_name']}"))
            return
        objects = grouped.pop(image_id)
        path = folder / item["file_name"]
        if item["file_name"] not in present and not path.is_file():
            self.log.add(Fault(str(path), "image missing", f"image_id {image_id}"))
            return
        height, width = _id(item.get("height")), _id(item.get("width"))
        if not height or not width or height < 0 or width < 0:
            detail = f"image_id {image_id} has height {item.get('height')!r}, width {item.get('width')!r}"
            self.log.add(Fault(self.file, "image entry malformed", detail))
            return
        found = [self._object(annotation, height, width, row) for row, annotation in objects]
        kept = [entry for entry in found if entry is not None]
        boxes, labels, crowds, exact = ([entry[k] for entry in kept] for k in range(4))
        builder.add(str(path), image_id, (height, width), boxes, labels, crowds, exact)  # type: ignore[arg-type]

    def _object(
        self, item: dict[str, Any], height: int, width: int, index: int
    ) -> tuple[Box, int, bool, tuple[float, ...]] | None:
        category = _id(item.get("category_id"))
        label = self.labels.get(category) if category is not None else None
        if label is None and category in self.known:
            self.not_asked_for += 1
            return None
        if label is None:
            detail = f"category_id {item.get('category_id')!r} is not among the file's categories"
            self.log.add(Fault(self.file, "unknown class", detail, index))
            return None
        crowd = bool(item.get("iscrowd"))
        if crowd and self.crowd == "drop":
            return None
        try:
            x, y, w, h = (float(v) for v in item["bbox"])
        except (KeyError, TypeError, ValueError, OverflowError):
            self.log.add(Fault(self.file, "box not a number", f"bbox {item.get('bbox')!r:.80}", index))
            return None
        box, kind, detail = fit_box((x, y, x + w, y + h), height, width)
        if kind:
            self.log.add(Fault(self.file, kind, f"annotation id {item.get('id')}: {detail}", index))
        if box is None:
            return None
        if kind:  # clipped: what is judged is what was kept
            x, y, w, h = box[0], box[1], box[2] - box[0], box[3] - box[1]
        return box, label, crowd, (x, y, w, h, self._area(item, w * h, index))

    def _area(self, item: dict[str, Any], of_box: float, index: int) -> float:
        # of the segment; it sorts objects into small, medium and large
        value = item.get("area")
        if value is None:
            return of_box
        try:
            area = float(value)
        except (TypeError, ValueError, OverflowError):
            area = math.nan
        if math.isfinite(area) and area >= 0:
            return area
        self.log.add(Fault(self.file, "area not a number", f"area {value!r:.80}; that of the box is taken", index))
        return of_box


def read_coco_json(path: str | Path) -> dict[str, Any]:
    """Reads a COCO JSON file and checks that its three lists are there.

    Raises:
        DataError: the file is missing, is not JSON, or lacks images, annotations or categories.
    """
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise DataError(f"{path} does not exist") from None
    except (ValueError, OSError) as error:
        raise DataError(f"{path} is not a JSON file: {error}") from None
    for key in ("images", "annotations", "categories"):
        if not isinstance(data, dict) or not isinstance(data.get(key), list):
            found = ", ".join(map(str, list(data)[:10])) if isinstance(data, dict) else f"a {type(data).__name__}"
            raise DataError(
                f"{path} is not a COCO file: expected the lists images, annotations, categories, found {found}"
            )
    return data


def _categories(
    categories: list[dict[str, Any]], classes: Sequence[str] | None, file: Path
) -> tuple[tuple[str, ...], tuple[int, ...]]:
    ids: dict[str, int] = {}
    for category in sorted(categories, key=lambda item: _id(item.get("id")) or 0):
        key, name = _id(category.get("id")), category.get("name")
        if key is None or not isinstance(name, str) or name in ids or key in ids.values():
            raise DataError(f"{file}: category {category!r:.80} must have an id and a name, both of its own")
        ids[name] = key
    missing = [name for name in classes or () if name not in ids]
    if missing:
        raise DataError(f"{file} has no category {', '.join(map(repr, missing))}; it has {', '.join(ids)}")
    names = tuple(classes) if classes is not None else tuple(ids)
    if not names:
        raise DataError(f"{file} lists no category")
    return names, tuple(ids[name] for name in names)


def _with_gaps(names: Sequence[str], ids: Sequence[int], chosen: bool) -> tuple[tuple[str, ...], tuple[int, ...]]:
    # Labels are ids: every id up to the greatest has a class.
    if chosen or min(ids) < 1 or max(ids) > _MOST_IDS:
        raise DataError(
            f"labels='ids' needs all categories (no classes=) with ids in 1 .. {_MOST_IDS}, got {min(ids)} .. {max(ids)}"
        )
    known = dict(zip(ids, names, strict=True))
    every = tuple(range(1, max(ids) + 1))
    return tuple(known.get(i, f"unused {i}") for i in every), every


def _id(value: Any) -> int | None:
    # Some writers make strings of ids; 1.0 is an id too, 1.5 is not.
    try:
        number = int(value)
        return number if isinstance(value, str) or number == value else None
    except (TypeError, ValueError, OverflowError):
        return None
