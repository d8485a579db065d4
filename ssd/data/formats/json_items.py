"""JSON files that hold images one by one, each with its objects: those of datumaro, supervisely and labelme.

* datumaro: annotations/SPLIT.json with items and label categories; the images in images/, by split or not.
* supervisely: meta.json with the classes, and DATASET/ann/NAME.json beside DATASET/img/NAME; a data set named train or
  val is a split.
* labelme: a JSON file beside each image, with shapes.

A polygon or other shape given by points is read as its bounding box.
"""

import reprlib
from collections.abc import Sequence
from pathlib import Path, PurePath

from ssd.common.errors import NoSplitError
from ssd.config.dataset_format import json_item_files
from ssd.data.annotations import AnnotationsBuilder, Box, fit_box
from ssd.data.dataset import DetectionDataset
from ssd.data.faults import DataError, Fault, FaultLog, no_class, shorten
from ssd.data.formats.field_values import as_names, as_side
from ssd.data.formats.folders import split_path
from ssd.data.formats.image_finder import ImageFinder
from ssd.data.formats.json_parsers import PARSERS, Item
from ssd.data.formats.split_names import aliases, split_of_file, split_of_folder
from ssd.data.loading.images import image_size


class JSONItemsDataset(DetectionDataset):
    """A split of a data set in the JSON of datumaro, supervisely or labelme.

    Args:
        kind: `"datumaro"`, `"supervisely"` or `"labelme"`.
        root: Folder of the data set, or for datumaro one of its files.
        split: Name of the split, such as `"train"`, or `"all"`.
        classes: Names in the order of their labels; None: those that the files list, or those of the objects, sorted.
        empty: `"keep"` or `"drop"` images without objects.
        on_error: Handling of faults in the files: `"skip"` drops the object or file, `"raise"` raises an error.
        apply_exif: Apply EXIF orientation; `"auto"` does so if the annotated sizes require it.

    Raises:
        NoSplitError: There is no such split.
        DataError: No such files, no usable image, or a fault with `on_error="raise"`.
    """

    def __init__(
        self,
        kind: str,
        root: str | Path,
        split: str = "train",
        *,
        classes: Sequence[str] | None = None,
        empty: str = "keep",
        on_error: str = "skip",
        apply_exif: bool | str = "auto",
    ) -> None:
        builder = AnnotationsBuilder(empty)
        log = FaultLog(on_error)
        folder, file = split_path(Path(root), None)
        files = [Path(file)] if file is not None else json_item_files(folder, kind)
        if not files:
            raise DataError(f"{root} has no files of {kind}; see ssd.data.formats.json_items for the expected files")
        chosen = files if file is not None else _of_split(files, folder, split, kind)
        names, items = PARSERS[kind](folder, chosen, log)
        names = as_names(classes) or tuple(dict.fromkeys(names)) or _names_of(items)
        if not names:
            raise DataError(no_class(f"no object in the {kind} files of {root} has a class", log))
        reader = _Reader(names, ImageFinder(folder, [folder / "images", folder]), bool(apply_exif), log)
        paths = reader.finder.find_all(map(reader.name_of, items))
        for image_id, (item, path) in enumerate(zip(items, paths, strict=True)):
            reader.add(item, image_id, path, builder)
        super().__init__(f"{kind} {split} of {root}", names, builder, log, apply_exif=apply_exif)


class _Reader:
    def __init__(self, names: Sequence[str], finder: ImageFinder, oriented: bool, log: FaultLog) -> None:
        self.labels = {name: label for label, name in enumerate(names, start=1)}
        self.finder, self.oriented, self.log = finder, oriented, log

    def name_of(self, item: Item) -> tuple[str, PurePath]:
        """Returns the name to find the image of an item by, and the path of the annotation file in the data set."""
        near = item.file.relative_to(self.finder.root)
        beside = f"{near.parent.parent.as_posix()}/img/{item.image}"  # one name in several data sets of supervisely
        if self.finder.has(beside):
            return beside, near
        return item.image, PurePath(item.file.stem) / "x" if len(near.parts) < 3 else near

    def add(self, item: Item, image_id: int, path: Path | None, builder: AnnotationsBuilder) -> None:
        """Adds an image with its objects; a missing or broken one is skipped."""
        if path is None:
            self.log.add(Fault(str(item.file), "image missing", f"no file {shorten(item.image)} in the data set"))
            return
        height, width = as_side(item.height), as_side(item.width)
        try:
            size = (height, width) if height and width else image_size(path, apply_exif=self.oriented)
        except DataError as error:
            self.log.add(Fault(str(path), "image unreadable", str(error)))
            return
        found = [self._object(item, index, *size) for index in range(len(item.objects))]
        kept = [entry for entry in found if entry is not None]
        boxes, labels, ignore = ([entry[k] for entry in kept] for k in range(3))
        builder.add(str(path), image_id, size, boxes, labels, ignore)  # type: ignore[arg-type]

    def _object(self, item: Item, index: int, height: int, width: int) -> tuple[Box, int, bool] | None:
        try:
            value = item.read_object(item.objects[index])
        except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
            detail = f"image {shorten(item.image, 80)}: {type(error).__name__} in {reprlib.repr(item.objects[index])}"
            self.log.add(Fault(str(item.file), "object malformed", detail, index))
            return None
        if value is None:
            return None
        where = f"image {shorten(item.image, 80)}: "
        if value.label not in self.labels:
            detail = f"{where}{shorten(value.label, 80)!r} is not one of {shorten(', '.join(self.labels))}"
            self.log.add(Fault(str(item.file), "unknown class", detail, index))
            return None
        box, kind, detail = fit_box(value.box, height, width)
        if kind:
            self.log.add(Fault(str(item.file), kind, where + detail, index))
        return None if box is None else (box, self.labels[value.label], value.ignore)


def _of_split(files: list[Path], root: Path, split: str, kind: str) -> list[Path]:
    if split == "all":
        return files
    find = split_of_file if kind == "datumaro" else split_of_folder
    splits = {file: find(file.relative_to(root)) for file in files}
    chosen = [file for file in files if file.stem == split or splits[file] in aliases(split)]
    if not chosen:
        found = tuple(sorted({name for name in splits.values() if name is not None}))
        raise NoSplitError(
            f"{root} has no split {split!r} of {kind}; splits found: {', '.join(found) or 'none'}. The split 'all' is "
            "every image.",
            found,
        )
    return chosen


def _names_of(items: list[Item]) -> tuple[str, ...]:
    names: set[str] = set()
    for item in items:
        for entry in item.objects:
            try:
                value = item.read_object(entry)
            except (LookupError, TypeError, ValueError, AttributeError, OverflowError):
                continue  # named when the item is added
            names |= {value.label} if value is not None else set()
    return tuple(sorted(names))
