"""Parses the JSON of datumaro, supervisely and labelme into images with objects; see `ssd.data.formats.json_items`."""

import reprlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from ssd.data.annotations import Box, bounding_box
from ssd.data.faults import DataError, Fault, FaultLog
from ssd.data.formats.coco_json import read_json
from ssd.data.formats.field_values import as_int, is_true


@dataclass(frozen=True)
class Object:
    """An object as its file gives it."""

    label: str
    box: Box  # xyxy in pixels
    ignore: bool


@dataclass(frozen=True)
class Item:
    """An image as its file gives it."""

    file: Path
    image: str  # name of the image
    height: Any
    width: Any
    objects: list[Any]
    read_object: Callable[[Any], Object | None]  # None if it is not a box; ValueError and the like if it is malformed


def _json_dicts(files: list[Path], log: FaultLog) -> Iterator[tuple[Path, dict[str, Any]]]:
    for file in files:
        try:
            data = read_json(file)
        except DataError as error:
            log.add(Fault(str(file), "annotation malformed", str(error)))
            continue
        if isinstance(data, dict):
            yield file, data
        else:
            log.add(Fault(str(file), "annotation malformed", f"expected an object, got a {type(data).__name__}"))


def _datumaro(root: Path, files: list[Path], log: FaultLog) -> tuple[tuple[str, ...], list[Item]]:
    names: tuple[str, ...] = ()
    items: list[Item] = []
    for file, data in _json_dicts(files, log):
        try:
            here = tuple(str(label["name"]) for label in data["categories"]["label"]["labels"])
        except (LookupError, TypeError):
            raise DataError(f"{file} has no categories.label.labels with the names of its classes") from None
        if names and here != names:
            raise DataError(f"{file} has other classes than {files[0]}")
        names = here

        def read(entry: Any, here: tuple[str, ...] = here) -> Object | None:
            if entry["type"] not in ("bbox", "polygon", "polyline"):
                return None
            index = as_int(entry.get("label_id"))
            label = here[index] if index is not None and 0 <= index < len(here) else f"label_id {index}"
            is_crowd = is_true((entry.get("attributes") or {}).get("is_crowd"))
            if entry["type"] == "bbox":
                x, y, w, h = map(float, entry["bbox"])
                return Object(label, (x, y, x + w, y + h), is_crowd)
            points = list(map(float, entry["points"]))
            return Object(label, _bounds(points[::2], points[1::2]), is_crowd)

        for index, entry in enumerate(data.get("items") or []):
            image = (entry.get("image") or entry.get("media") or {}) if isinstance(entry, dict) else None
            if not isinstance(image, dict) or not isinstance(entry.get("annotations"), list):
                log.add(Fault(str(file), "image entry malformed", f"item {index}: {reprlib.repr(entry)}"))
                continue
            sides = image.get("size")
            height, width = sides if isinstance(sides, list) and len(sides) == 2 else (None, None)
            name = str(image.get("path") or entry.get("id"))
            items.append(Item(file, name, height, width, entry["annotations"], read))
    return names, items


def _supervisely(root: Path, files: list[Path], log: FaultLog) -> tuple[tuple[str, ...], list[Item]]:
    meta = read_json(root / "meta.json")
    try:
        # a title may have several shapes
        names = tuple(dict.fromkeys(str(entry["title"]) for entry in meta["classes"]))
    except (LookupError, TypeError):
        raise DataError(f"{root / 'meta.json'} has no classes with titles") from None

    def read(entry: Any) -> Object:
        xs, ys = zip(*entry["points"]["exterior"], strict=True)
        return Object(_name(entry["classTitle"]), _bounds(xs, ys), False)

    items: list[Item] = []
    for file, data in _json_dicts(files, log):
        size, objects = data.get("size") or {}, data.get("objects")
        if not isinstance(size, dict) or not isinstance(objects, list):
            log.add(Fault(str(file), "annotation malformed", "expected size and objects"))
            continue
        items.append(Item(file, file.name.removesuffix(".json"), size.get("height"), size.get("width"), objects, read))
    return names, items


def _labelme(root: Path, files: list[Path], log: FaultLog) -> tuple[tuple[str, ...], list[Item]]:
    def read(entry: Any) -> Object:
        xs, ys = zip(*entry["points"], strict=True)
        if entry.get("shape_type") == "circle":  # its center and a point on it
            radius = ((xs[1] - xs[0]) ** 2 + (ys[1] - ys[0]) ** 2) ** 0.5
            xs, ys = (xs[0] - radius, xs[0] + radius), (ys[0] - radius, ys[0] + radius)
        return Object(_name(entry["label"]), _bounds(xs, ys), is_true((entry.get("flags") or {}).get("difficult")))

    items: list[Item] = []
    for file, data in _json_dicts(files, log):
        objects, name = data.get("shapes"), data.get("imagePath")
        if not isinstance(objects, list) or not isinstance(name, str):
            log.add(Fault(str(file), "annotation malformed", "expected shapes and imagePath"))
            continue
        image = (file.parent / PurePath(name.replace("\\", "/")).name).relative_to(root)
        items.append(Item(file, str(image), data.get("imageHeight"), data.get("imageWidth"), objects, read))
    return (), items


def _name(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("the name of a class must be a string")
    return value


def _bounds(xs: Sequence[Any], ys: Sequence[Any]) -> Box:
    return bounding_box(list(map(float, xs)), list(map(float, ys)))


PARSERS = {"datumaro": _datumaro, "supervisely": _supervisely, "labelme": _labelme}
