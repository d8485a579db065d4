"""Detects the format of a data set. Standard library only.

`SIGNS` lists what identifies each format, in order of precedence, with the tools that write it.
"""

from __future__ import annotations

import mmap
import re
import shlex
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from ssd.common.errors import ConfigError, DataError
from ssd.common.file_tree import IMAGE_SUFFIXES, read_text, walk
from ssd.config import TrainConfig
from ssd.config.other_formats import describe_other_format

YOLO_CLASS_FILES = ("classes.txt", "labels/classes.txt", "obj.names", "data/obj.names", "labels.txt")
# By suffix, for a file that is given instead of a folder.
_FILE_FORMATS = {".yaml": "yolo", ".yml": "yolo", ".csv": "csv"}
_KEYS = {
    "coco": (rb'"images"\s*:\s*\[', rb'"annotations"\s*:\s*\[', rb'"categories"\s*:\s*\['),
    "datumaro": (rb'"items"\s*:\s*\[', rb'"categories"\s*:\s*\{'),
    "supervisely": (rb'"objects"\s*:\s*\[', rb'"size"\s*:\s*\{'),
    "labelme": (rb'"shapes"\s*:\s*\[', rb'"imagePath"\s*:'),
}
_MAX_DEPTH = 3  # folder levels searched for signs
_MAX_SEARCHED = 5000  # files searched for signs


def resolve_dataset(config: TrainConfig) -> None:
    """Replaces the data set "auto" by the detected format, and prints it; without a folder, by generated shapes.

    Raises:
        ConfigError: The folder has none of the known formats.
    """
    if config.dataset != "auto":
        return
    if config.data_path is None:
        config.dataset = "shapes"
        return
    try:
        found = find_formats(Path(config.data_path))
        advice = "" if found else _advice(Path(config.data_path))
    except (DataError, OSError) as error:
        raise ConfigError(f"--data-path {config.data_path}: {error}") from None
    if not found:
        raise ConfigError(f"--data-path {config.data_path} has none of the known formats{advice}")
    (config.dataset, sign), *others = found.items()
    also = "".join(f"; it could also be {name} ({other}): --dataset {name}" for name, other in others)
    print(f"data set: {config.dataset}, because of {sign}{also}")


def find_formats(root: Path) -> dict[str, Path]:
    """Returns the possible formats of a folder in order of precedence, each with the file or folder that identifies it."""
    if root.is_file():
        kinds = [
            _FILE_FORMATS.get(root.suffix.lower()),
            *(kind for kind in ("coco", "datumaro") if has_keys(root, kind)),
        ]
        return {kind: root for kind in kinds if kind is not None}
    found: dict[str, Path] = {}
    for name, find, _ in SIGNS:
        if name not in found and (sign := find(root)) is not None:
            found[name] = sign
    return found


def is_voc_folder(folder: Path) -> bool:
    """Returns whether a folder has the layout of PASCAL VOC."""
    return (folder / "Annotations").is_dir() and (folder / "JPEGImages").is_dir()


def voc_years(root: Path) -> dict[str, Path]:
    """Returns year -> folder for the years in a VOC devkit."""
    found = {}
    for parent in (root / "VOCdevkit", root):
        for folder in sorted(parent.glob("VOC[0-9][0-9][0-9][0-9]")):
            if is_voc_folder(folder):
                found[folder.name[3:]] = folder
    return found


def find_yaml(root: Path) -> Path | None:
    """Returns the YAML file of a YOLO data set: data.yaml, or another one with the key `names`."""
    found = [path for path in sorted(root.glob("*.y*ml")) if path.suffix in (".yaml", ".yml") and path.is_file()]
    found.sort(key=lambda path: path.stem not in ("data", "dataset"))
    for path in found:
        try:
            text = read_text(path)
        except (DataError, OSError):
            if path.stem in ("data", "dataset"):
                return path  # the reader reports the error
            continue
        if re.search(r"""^[{\s]*["']?names["']?\s*:""", text, re.MULTILINE):
            return path
    return None


def find_class_file(root: Path) -> Path | None:
    """Returns the text file with the class names of a YOLO data set without data.yaml."""
    found = next((root / name for name in YOLO_CLASS_FILES if (root / name).is_file()), None)
    return found or next(
        (path for name in ("_darknet.labels", "classes.txt") for path in sorted(root.glob(f"*/{name}"))), None
    )


def coco_files(root: Path) -> list[Path]:
    """Returns the COCO files of a folder, without those of keypoints, captions and stuff if there are others."""
    patterns = ("annotations/*.json", "*/_annotations.coco.json", "*.json", "*/*.json")
    paths = dict.fromkeys(path for pattern in patterns for path in sorted(root.glob(pattern))[:_MAX_SEARCHED])
    files = [path for path in paths if has_keys(path, "coco")]
    return [path for path in files if not path.name.startswith(("person_keypoints", "captions", "stuff"))] or files


def json_item_files(root: Path, kind: str) -> list[Path]:
    """Returns the annotation files of a Datumaro, Supervisely or LabelMe data set."""
    if kind == "datumaro":
        return [path for path in sorted(root.glob("annotations/*.json")) if has_keys(path, kind)]
    if kind == "supervisely":
        inside = sorted(root.glob("**/ann/*.json")) if (root / "meta.json").is_file() else []
        return [path for path in inside if has_keys(path, kind)]
    return [path for path in walk(root) if path.suffix == ".json" and has_keys(path, kind)]


def has_keys(path: Path, kind: str) -> bool:
    """Returns whether a JSON file has the keys of a format; searches the text, since the file may be large."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
            if text[:2] in (b"\xff\xfe", b"\xfe\xff"):  # UTF-16
                return all(re.search(key, text[:].replace(b"\0", b"")) for key in _KEYS[kind])
            return re.match(rb"(\xef\xbb\xbf)?\s*\{", text) is not None and all(
                re.search(key, text) for key in _KEYS[kind]
            )
    except (OSError, ValueError):  # empty or unreadable
        return False


def _shards_sign(root: Path) -> Path | None:
    return root / "shards.json" if (root / "shards.json").is_file() else None


def _voc_sign(root: Path) -> Path | None:
    if is_voc_folder(root):
        return root / "Annotations"
    return next((folder / "Annotations" for folder in voc_years(root).values()), None)


def _xml_sign(root: Path) -> Path | None:
    for path in _files(root, ".xml"):
        with path.open("rb") as file:
            if re.search(rb"<annotation\b", file.read(4096).replace(b"\0", b"")):
                return path.parent
    return None


def _coco_sign(root: Path) -> Path | None:
    return next(iter(coco_files(root)), None)


def _item_sign(kind: str) -> Callable[[Path], Path | None]:
    def find(root: Path) -> Path | None:
        if kind == "labelme":
            return next((path for path in _files(root, ".json") if has_keys(path, kind)), None)
        return next(iter(json_item_files(root, kind)), None)

    return find


def _class_file_sign(root: Path) -> Path | None:
    named = find_class_file(root)
    if named is None or named.name == "obj.names":  # of darknet only, whatever CVAT calls the subsets
        return named
    has_folders = any((root / name).is_dir() for name in ("images", "labels", "obj_train_data", "data", "train"))
    is_flat = any(path.suffix.lower() in IMAGE_SUFFIXES for path in walk(root, max_depth=0))
    return named if has_folders or is_flat or any(root.glob("*/labels")) else None


def _csv_sign(root: Path) -> Path | None:
    patterns = ("*.csv", "annotations/*.csv", "*/_annotations.csv", "*/annotations.csv")
    found = (path for pattern in patterns for path in sorted(root.glob(pattern)))
    return next((path for path in found if not describe_other_format([path])), None)


def _files(root: Path, suffix: str) -> list[Path]:
    found: list[Path] = []
    for number, path in enumerate(walk(root, max_depth=_MAX_DEPTH)):
        if path.suffix.lower() == suffix:
            found.append(path)
        if number == _MAX_SEARCHED or len(found) == 20:
            break
    return found


def _advice(root: Path) -> str:
    """Returns the end of the error for a folder or file of no known format: what it contains instead."""
    for folder in sorted(root.iterdir())[:20] if root.is_dir() else []:
        if folder.is_dir() and (inside := next(iter(find_formats(folder)), None)):
            return f". Its subfolder has the format {inside}: --data-path {shlex.quote(str(folder))}"
    files = [path for _, path in zip(range(_MAX_SEARCHED), walk(root, max_depth=_MAX_DEPTH), strict=False)]
    if other := describe_other_format([root] if root.is_file() else files):
        return f". {other}"
    known = ", ".join(f"{name} ({words})" for name, _, words in SIGNS)
    return f": {known}; for your own code use --dataset module:function. {_describe_files(files, root)}"


def _describe_files(files: list[Path], root: Path) -> str:
    count = Counter(path.suffix.lower() or path.name for path in files)
    found = f"Found {', '.join(f'{number} {name}' for name, number in count.most_common(6)) or 'no files'}"
    if ".txt" in count:
        return f"{found}: if these are YOLO labels, write the class names, one per line, to {root / 'classes.txt'}"
    if ".xml" in count:
        return f"{found}: XML files must have the PASCAL VOC format, one per image (CVAT can export it)"
    if ".json" in count:
        return (
            f"{found}: JSON files must have the format of COCO (which annotation tools can export), Datumaro, "
            "Supervisely or LabelMe"
        )
    return f"{found}."


# (format, function that finds its sign, description of the sign); the first match wins.
SIGNS: tuple[tuple[str, Callable[[Path], Path | None], str], ...] = (
    ("shards", _shards_sign, "shards.json of ssd data pack"),
    ("voc", _voc_sign, "Annotations and JPEGImages"),
    ("datumaro", _item_sign("datumaro"), "annotations/*.json with items"),
    ("coco", _coco_sign, "a JSON file with images, annotations and categories"),
    ("supervisely", _item_sign("supervisely"), "meta.json and ann/*.json"),
    ("yolo", find_yaml, "data.yaml"),
    ("voc", _xml_sign, "XML files of labelImg, Label Studio, Roboflow or Kaggle"),
    ("yolo", _class_file_sign, "classes.txt or obj.names with images and text files"),
    ("labelme", _item_sign("labelme"), "a JSON file with shapes next to each image"),
    ("csv", _csv_sign, "a CSV file of boxes"),
)
