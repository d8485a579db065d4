"""Where a YOLO data set keeps the class names, images and labels of a split: a data.yaml, or a classes.txt and folders."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssd.data.faults import DataError
from ssd.data.folders import IMAGE_SUFFIXES, describe_folder
from ssd.dataset_format import YOLO_CLASS_FILES, find_yaml

_ALIASES = {"val": ("valid", "validation"), "valid": ("val",), "train": ("training",)}


@dataclass(frozen=True)
class YOLOSplit:
    """A split as its files give it."""

    source: Path  # what named the classes
    classes: tuple[str, ...]  # class k of the label files is classes[k]
    images: tuple[Path, ...]


def find_split(root: Path, split: str) -> YOLOSplit:
    """Returns the classes and image files of a split.

    A ``*.yaml`` with ``names`` decides, where there is one: its ``path`` and its entry for the split (a folder, a text
    file that lists images, or several of them). Without it the names stand in classes.txt, one to a line, and the
    images in images/SPLIT, SPLIT/images, or in the list SPLIT.txt. The split ``"all"`` is every image in images/.

    Raises:
        DataError: no class names, no such split, or a file that cannot be understood; with file and line.
    """
    yaml_file = find_yaml(root)
    if yaml_file is not None:
        data = _read_yaml(yaml_file)
        return YOLOSplit(yaml_file, _yaml_classes(data, yaml_file), _yaml_images(data, yaml_file, split))
    for name in YOLO_CLASS_FILES:
        if (root / name).is_file():
            lines = (root / name).read_text(encoding="utf-8-sig").splitlines()
            classes = tuple(line.strip() for line in lines if line.strip())
            _check_names(classes, root / name)
            return YOLOSplit(root / name, classes, _folder_images(root, split))
    raise DataError(
        f"{root} is not a YOLO folder: expected data.yaml or classes.txt with the class names, {describe_folder(root)}"
    )


def label_file(image: Path) -> Path:
    """Returns where the labels of an image are: the last folder "images" of its path becomes "labels"; else beside it."""
    parts = list(image.parts)
    for place in range(len(parts) - 2, -1, -1):
        if parts[place] == "images":
            parts[place] = "labels"
            return Path(*parts).with_suffix(".txt")
    return image.with_suffix(".txt")


def _read_yaml(path: Path) -> dict[str, Any]:
    import yaml

    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}, line {mark.line + 1}" if mark else str(path)
        raise DataError(f"{where}: not a YAML file ({getattr(error, 'problem', error)})") from None
    if not isinstance(data, dict):
        raise DataError(f"{path} must hold keys such as train, val and names, got a {type(data).__name__}")
    return data


def _yaml_classes(data: dict[str, Any], path: Path) -> tuple[str, ...]:
    names = data.get("names")
    if isinstance(names, dict):
        if sorted(names) != list(range(len(names))):
            raise DataError(f"{path}: names must count from 0 without gaps, got the keys {sorted(names)!r:.80}")
        names = [names[key] for key in sorted(names)]
    if not isinstance(names, list) or not names:
        raise DataError(f"{path}: names must list the classes, got {names!r:.80}")
    classes = tuple(map(str, names))
    if data.get("nc", len(classes)) != len(classes):
        raise DataError(f"{path}: nc is {data['nc']}, but names has {len(classes)} classes")
    _check_names(classes, path)
    return classes


def _check_names(classes: tuple[str, ...], path: Path) -> None:
    if not classes:
        raise DataError(f"{path} names no class")
    twice = next((name for name in classes if classes.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"{path} names the class {twice!r} twice")


def _yaml_images(data: dict[str, Any], path: Path, split: str) -> tuple[Path, ...]:
    key = next((name for name in (split, *_ALIASES.get(split, ())) if data.get(name)), None)
    if key is None:
        known = ", ".join(name for name in ("train", "val", "valid", "test") if data.get(name)) or "none"
        raise DataError(f"{path} has no split {split!r}; splits found: {known}")
    entries = data[key] if isinstance(data[key], list) else [data[key]]
    base = path.parent / str(data.get("path") or "")
    images: list[Path] = []
    for entry in map(str, entries):
        # Exporters write paths for the folder that they were started in, hence the last two places.
        places = [base / entry, path.parent / entry, path.parent / entry.lstrip("./")]
        found = next((place for place in places if place.exists()), None)
        if found is None:
            raise DataError(f"{path}: {key} names {entry!r}, expected a folder or list at {places[0]} or {places[1]}")
        images += _images_in(found) if found.is_dir() else _listed(found, base if base.is_dir() else path.parent)
    return tuple(images)


def _folder_images(root: Path, split: str) -> tuple[Path, ...]:
    if split == "all":
        if (root / "images").is_dir():
            return tuple(_images_in(root / "images"))
        return tuple(_images_in(root))
    for name in (split, *_ALIASES.get(split, ())):
        for folder in (root / "images" / name, root / name / "images", root / name):
            if folder.is_dir():
                return tuple(_images_in(folder))
        if (root / f"{name}.txt").is_file():
            return tuple(_listed(root / f"{name}.txt", root))
    raise DataError(
        f"{root} has no YOLO split {split!r}: expected images/{split}/, {split}/images/ or the list {split}.txt, "
        f"{describe_folder(root)}. The split 'all' is every image of images/."
    )


def _images_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)


def _listed(path: Path, base: Path) -> list[Path]:
    # One image to a line, relative to the data set, or to the list where it begins with "./" (as Ultralytics has it).
    images = []
    for line in path.read_text(encoding="utf-8-sig").splitlines():
        name = line.strip()
        if name:
            images.append((path.parent / name[2:]) if name.startswith("./") else base / name)
    return images
