"""Where a YOLO data set keeps the class names, images and labels of a split: a data.yaml, or class names and folders."""

import reprlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ssd.common.errors import NoSplitError
from ssd.common.file_tree import images_below, is_within, read_text, walk
from ssd.config.dataset_format import find_class_file, find_yaml
from ssd.data.faults import DataError, shorten
from ssd.data.formats.folders import describe_folder
from ssd.data.formats.image_finder import ImageFinder, check_inside
from ssd.data.formats.split_names import UNSPLIT, aliases, canonical

_MAX_YAML = 1 << 17  # characters, thousands of classes; the parser takes some seconds for as many
_LABEL_FOLDERS = ("labels", "Labels", "label", "annotations", "Annotations")
_IMAGES = ("images", "image", "imgs", "img", "jpegimages")  # names in any case of folders beside one of labels
_IMAGE_FOLDERS = ("images", "obj_train_data", "data")


@dataclass(frozen=True)
class YOLOSplit:
    """A split as its files give it."""

    source: Path  # what named the classes
    classes: tuple[str, ...]  # class k of the label files is classes[k]
    images: tuple[Path, ...]
    is_listed: bool  # in a text file, else by the folders that hold them
    keypoint_values: int = 0  # numbers after each box


def find_split(root: Path, split: str, allow_outside: bool) -> YOLOSplit:
    """Returns the classes and image files of a split.

    A `*.yaml` with `names` decides, where there is one: its `path` and its entry for the split (a folder, a text
    file that lists images, or several of them). Without it the names are in classes.txt or obj.names, one per line,
    and the images in images/SPLIT, SPLIT/images, SPLIT, or in the list SPLIT.txt. The split `"all"` is every image.

    Args:
        root: Folder of the data set, or its data.yaml.
        split: Name of the split.
        allow_outside: Follow paths that leave the folder.

    Raises:
        NoSplitError: There is no such split.
        DataError: No class names, a path that leaves the folder, or a file that cannot be parsed, with its line.
    """
    yaml_file = root if root.is_file() else find_yaml(root)
    home = root.parent if root.is_file() else root
    within = Path(home.absolute().anchor) if allow_outside else home
    if yaml_file is not None:
        data = _read_yaml(yaml_file)
        classes = _yaml_classes(data, yaml_file)
        images, is_listed = _yaml_images(data, yaml_file, split, within)
        return YOLOSplit(yaml_file, classes, images, is_listed, _keypoint_values(data, yaml_file))
    source = find_class_file(root)
    if source is None:
        raise DataError(
            f"{root} is not a YOLO folder: expected data.yaml or classes.txt with the class names, "
            f"{describe_folder(root)}"
        )
    lines = [line.strip() for line in read_text(source).rstrip().splitlines()]
    if "" in lines:
        raise DataError(f"{source}, line {lines.index('') + 1}: the line is blank, but the line number is the class")
    _check_names(lines, source)
    images, is_listed = _folder_images(root, split, within)
    return YOLOSplit(source, tuple(lines), images, is_listed)


def label_file(image: Path) -> Path:
    """Returns the path of an image's label file.

    It is beside the image, unless the last folder "images" of the path, or one called similarly, has a folder "labels" or
    "annotations" beside it with the same folders in it.
    """
    return _label_folder(image.parent) / f"{image.stem}.txt"


@cache
def _label_folder(folder: Path) -> Path:
    parts = folder.parts
    for depth in [k for k in reversed(range(len(parts))) if parts[k].lower() in _IMAGES][:1]:
        for name in _LABEL_FOLDERS:
            if (labels := Path(*parts[:depth], name, *parts[depth + 1 :])).is_dir():
                return labels
    return folder


def labels_without_image(images: Iterable[Path]) -> list[Path]:
    """Returns the label files beside those of the images that belong to no image."""
    expected = {label_file(image) for image in images}
    beside = [path for folder in sorted({path.parent for path in expected}) for path in walk(folder, max_depth=0)]
    texts = [path for path in beside if path.suffix.lower() == ".txt" and path.with_suffix(".txt") not in expected]
    return [path for path in texts if _holds_a_box(path)]


def _holds_a_box(path: Path) -> bool:
    # Class names and lists of images are text files, too.
    try:
        first = read_text(path).split("\n", 1)[0].split()
        return len(first) >= 5 and len([float(text) for text in first]) >= 5
    except ValueError:
        return False


def _read_yaml(path: Path) -> dict[str, Any]:
    import yaml

    text = read_text(path)
    if len(text) > _MAX_YAML:
        raise DataError(f"{path} has {len(text)} characters, more than the maximum of {_MAX_YAML}")
    try:
        # Every value as its text: "yes", "1" and "1e3" are names of classes, too.
        data = yaml.load(text, Loader=yaml.BaseLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}, line {mark.line + 1}" if mark else str(path)
        raise DataError(f"{where}: not a YAML file ({shorten(getattr(error, 'problem', error))})") from None
    except (RecursionError, ValueError) as error:
        raise DataError(f"{path}: not a YAML file that can be read ({type(error).__name__})") from None
    if not isinstance(data, dict):
        raise DataError(f"{path} must hold keys such as train, val and names, got a {type(data).__name__}")
    return data


def _yaml_classes(data: dict[str, Any], path: Path) -> tuple[str, ...]:
    names = data.get("names")
    if isinstance(names, dict):
        keys = [str(number) for number in range(len(names))]
        if set(names) != set(keys):
            raise DataError(f"{path}: names must count from 0 without gaps, got the keys {reprlib.repr(list(names))}")
        names = [names[key] for key in keys]
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise DataError(f"{path}: names must list the classes, got {reprlib.repr(names)}")
    count = data.get("nc", str(len(names)))
    if str(count) != str(len(names)):
        raise DataError(f"{path}: nc is {reprlib.repr(count)}, but names has {len(names)} classes")
    _check_names(names, path)
    return tuple(names)


def _keypoint_values(data: dict[str, Any], path: Path) -> int:
    shape = data.get("kpt_shape")
    if shape is None:
        return 0
    if not isinstance(shape, list) or len(shape) != 2 or not all(str(n).isdecimal() and len(n) < 5 for n in shape):
        raise DataError(f"{path}: kpt_shape must be [keypoints, 2 or 3], got {reprlib.repr(shape)}")
    return int(shape[0]) * int(shape[1])


def _check_names(classes: list[str], path: Path) -> None:
    if not classes or "" in classes:
        raise DataError(f"{path} " + ("has a class without a name" if classes else "names no class"))
    twice = next((name for index, name in enumerate(classes) if name in classes[:index]), None)
    if twice is not None:
        raise DataError(f"{path} names the class {shorten(twice)!r} twice")


def _yaml_images(data: dict[str, Any], path: Path, split: str, within: Path) -> tuple[tuple[Path, ...], bool]:
    present = [name for name in data if canonical(name) and data[name] and not isinstance(data[name], dict)]
    keys = present if split == "all" else [name for name in aliases(split) if name in present][:1]
    if not keys:
        known = ", ".join(present) or "none"
        raise NoSplitError(f"{path} has no split {split!r}; splits found: {known}", tuple(present))
    images: list[Path] = []
    is_listed = False
    base = shorten(data.get("path") or "", 300)
    for key in keys:
        for entry in data[key] if isinstance(data[key], list) else [data[key]]:
            candidate = _yaml_path(base, shorten(entry, 300), path, key, within)
            is_listed |= candidate.is_file()
            images += images_below(candidate) if candidate.is_dir() else _listed(candidate, path.parent, within, base)
    return tuple(dict.fromkeys(images)), is_listed


def _yaml_path(base: str, entry: str, path: Path, key: str, within: Path) -> Path:
    # Exporters write paths for the folder or the machine that they were started on, hence the ends of the entry.
    root = path.parent
    parts = [part for part in entry.replace("\\", "/").split("/") if part not in ("", ".", "..")]
    ends = [parts[first:] for first in range(len(parts))]
    named = [root.joinpath(*end) for end in ends if len(end) > 1 or canonical(Path(end[0]).stem) or end == parts]
    candidates = [root / base / entry, root / entry, *named]
    found = [candidate for candidate in candidates if _exists(candidate)]
    inside = [candidate for candidate in found if is_within(candidate, within)]
    if found and not inside:
        check_inside(found[0], within, f"{path}: {key}")
    if not found:
        places = " or ".join(dict.fromkeys(map(str, candidates[:2])))
        remedy = (
            "" if canonical(key) == "train" else f". Without the entry {key}, a part of the training images is held out"
        )
        raise DataError(f"{path}: {key} names {entry!r}, expected a folder or list at {places}{remedy}")
    return inside[0]


def _folder_images(root: Path, split: str, within: Path) -> tuple[tuple[Path, ...], bool]:
    if split == "all":
        folder = next((root / name for name in _IMAGE_FOLDERS if (root / name).is_dir()), root)
        return tuple(images_below(folder) or images_below(root)), False
    for name in aliases(split):
        for folder in (root / "images" / name, root / name / "images", root / name):
            if folder.is_dir():
                return tuple(images_below(folder)), False
        for candidate in (root / f"{name}.txt", root / "data" / f"{name}.txt", root / "ImageSets" / f"{name}.txt"):
            if candidate.is_file():
                return tuple(_listed(candidate, root, within)), True
    names = {
        path.name.removesuffix(".txt")
        for folder in (root, root / "images")
        if folder.is_dir()
        for path in folder.iterdir()
    }
    found = tuple(sorted(name for name in names if canonical(name) and name not in UNSPLIT))
    raise NoSplitError(
        f"{root} has no YOLO split {split!r}: expected images/{split}/, {split}/images/ or the list {split}.txt, "
        f"{describe_folder(root)}. The split 'all' is every image of images/.",
        found,
    )


def _listed(path: Path, root: Path, within: Path, base: str = "") -> list[Path]:
    # One image per line, relative to the data set, or to the list if it begins with "./" (as in Ultralytics).
    home = root / base
    finder = ImageFinder(root, [home, root, path.parent], within=within)
    lines = [(number, name) for number, line in enumerate(read_text(path).splitlines(), 1) if (name := line.strip())]
    images = []
    for (number, name), found in zip(lines, finder.find_all((name, None) for _, name in lines), strict=True):
        candidate = (path.parent if name.startswith("./") else home) / name
        if found is None and _exists(candidate):
            check_inside(candidate, within, f"{path}, line {number}")
        images.append(found or candidate)
    return images


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # too long, or a null character
        return False
