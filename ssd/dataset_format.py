"""Finding out the format of a folder of the user's; standard library only.

`SIGNS` is the table: the signs of the formats in the order in which they decide, with the tools that write them.
"""

from __future__ import annotations

import mmap
import re
from collections.abc import Callable
from pathlib import Path

from ssd.config import TrainConfig
from ssd.errors import ConfigError, DataError
from ssd.file_tree import IMAGE_SUFFIXES, read_text, walk

YOLO_CLASS_FILES = ("classes.txt", "labels/classes.txt", "obj.names", "data/obj.names", "labels.txt")
# By the suffix of a file that is named in place of the folder.
_FILE_FORMATS = {".yaml": "yolo", ".yml": "yolo", ".csv": "csv"}
_KEYS = {
    "coco": (rb'"images"\s*:\s*\[', rb'"annotations"\s*:\s*\[', rb'"categories"\s*:\s*\['),
    "datumaro": (rb'"items"\s*:\s*\[', rb'"categories"\s*:\s*\{'),
    "supervisely": (rb'"objects"\s*:\s*\[', rb'"size"\s*:\s*\{'),
    "labelme": (rb'"shapes"\s*:\s*\[', rb'"imagePath"\s*:'),
}
_MAX_DEPTH = 3  # folder levels searched for signs
_LOOKED_AT = 5000  # files, likewise


def resolve_dataset(config: TrainConfig) -> None:
    """Replaces the data set "auto" by the format that the folder has, and prints it; without a folder, by drawn shapes.

    Raises:
        ConfigError: the folder has none of the formats.
    """
    if config.dataset != "auto":
        return
    if config.data_path is None:
        config.dataset = "shapes"
        return
    try:
        found = find_formats(Path(config.data_path))
        hint = "" if found else _hint(Path(config.data_path))
    except (DataError, OSError) as error:
        raise ConfigError(f"--data-path {config.data_path}: {error}") from None
    if not found:
        known = ", ".join(f"{name} ({words})" for name, _, words in SIGNS)
        raise ConfigError(
            f"--data-path {config.data_path} has none of the formats known: {known}; a data set of your own is named by "
            f"--dataset module:function. {hint}"
        )
    (config.dataset, sign), *others = found.items()
    also = "".join(f"; {name} would be possible too ({other}), by --dataset {name}" for name, other in others)
    print(f"data set: {config.dataset}, because of {sign}{also}")


def find_formats(root: Path) -> dict[str, Path]:
    """Returns the formats that a folder has, the most telling first, each with the file or folder that is its sign."""
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
    """Whether the folder itself holds annotations and images in VOC's way."""
    return (folder / "Annotations").is_dir() and (folder / "JPEGImages").is_dir()


def voc_years(root: Path) -> dict[str, Path]:
    """Returns year -> folder of the years in a devkit folder."""
    found = {}
    for parent in (root / "VOCdevkit", root):
        for folder in sorted(parent.glob("VOC[0-9][0-9][0-9][0-9]")):
            if is_voc_folder(folder):
                found[folder.name[3:]] = folder
    return found


def find_yaml(root: Path) -> Path | None:
    """Returns the YAML file that describes a YOLO data set, data.yaml before any other with the key names."""
    found = [path for path in sorted(root.glob("*.y*ml")) if path.suffix in (".yaml", ".yml") and path.is_file()]
    found.sort(key=lambda path: path.stem not in ("data", "dataset"))
    for path in found:
        try:
            text = read_text(path)
        except (DataError, OSError):
            if path.stem in ("data", "dataset"):
                return path  # the reader says what is wrong with it
            continue
        if re.search(r"""^[{\s]*["']?names["']?\s*:""", text, re.MULTILINE):
            return path
    return None


def find_class_file(root: Path) -> Path | None:
    """Returns the text file that names the classes of a YOLO data set without data.yaml."""
    found = next((root / name for name in YOLO_CLASS_FILES if (root / name).is_file()), None)
    return found or next(
        (path for name in ("_darknet.labels", "classes.txt") for path in sorted(root.glob(f"*/{name}"))), None
    )


def coco_files(root: Path) -> list[Path]:
    """Returns the COCO files of a folder, those of keypoints and captions left out where there are others."""
    patterns = ("annotations/*.json", "*/_annotations.coco.json", "*.json", "*/*.json")
    paths = dict.fromkeys(path for pattern in patterns for path in sorted(root.glob(pattern))[:_LOOKED_AT])
    files = [path for path in paths if has_keys(path, "coco")]
    return [path for path in files if not path.name.startswith(("person_keypoints", "captions", "stuff"))] or files


def json_item_files(root: Path, kind: str) -> list[Path]:
    """Returns the files of a data set of datumaro, supervisely or labelme."""
    if kind == "datumaro":
        return [path for path in sorted(root.glob("annotations/*.json")) if has_keys(path, kind)]
    if kind == "supervisely":
        inside = sorted(root.glob("**/ann/*.json")) if (root / "meta.json").is_file() else []
        return [path for path in inside if has_keys(path, kind)]
    return [path for path in walk(root) if path.suffix == ".json" and has_keys(path, kind)]


def has_keys(path: Path, kind: str) -> bool:
    """Whether a JSON file has the keys of a format. Their text is searched for, as the file may be large."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
            if text[:2] in (b"\xff\xfe", b"\xfe\xff"):  # UTF-16
                return all(re.search(key, text[:].replace(b"\0", b"")) for key in _KEYS[kind])
            return re.match(rb"(\xef\xbb\xbf)?\s*\{", text) is not None and all(
                re.search(key, text) for key in _KEYS[kind]
            )
    except (OSError, ValueError):  # empty, or not to be read
        return False


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
    if named is None:
        return None
    has_folders = any((root / name).is_dir() for name in ("images", "labels", "obj_train_data", "data", "train"))
    is_flat = any(path.suffix.lower() in IMAGE_SUFFIXES for path in walk(root, max_depth=0))
    return named if has_folders or is_flat or any(root.glob("*/labels")) else None


def _csv_sign(root: Path) -> Path | None:
    patterns = ("*.csv", "annotations/*.csv", "*/_annotations.csv", "*/annotations.csv")
    return next((path for pattern in patterns for path in sorted(root.glob(pattern))), None)


def _files(root: Path, suffix: str) -> list[Path]:
    found: list[Path] = []
    for number, path in enumerate(walk(root, max_depth=_MAX_DEPTH)):
        if path.suffix.lower() == suffix:
            found.append(path)
        if number == _LOOKED_AT or len(found) == 20:
            break
    return found


def _hint(root: Path) -> str:
    # What is there instead.
    for folder in sorted(root.iterdir())[:20] if root.is_dir() else []:
        if folder.is_dir() and (inside := next(iter(find_formats(folder)), None)):
            return f"Its folder {folder} is {inside}: --data-path {folder}"
    count: dict[str, int] = {}
    for _, path in zip(range(_LOOKED_AT), walk(root, max_depth=_MAX_DEPTH), strict=False):
        count[path.suffix.lower() or path.name] = count.get(path.suffix.lower() or path.name, 0) + 1
    found = ", ".join(f"{number} {name}" for name, number in sorted(count.items(), key=lambda item: -item[1])[:6])
    if ".txt" in count:
        return (
            f"Found {found}: if these are labels of YOLO, write the class names, one a line, to {root / 'classes.txt'}"
        )
    if ".xml" in count:
        return f"Found {found}: XML files must be of PASCAL VOC, one for each image (CVAT exports that, too)"
    return f"Found {found or 'no file'}."


# (format, what finds its sign, what it is): the first found decides.
SIGNS: tuple[tuple[str, Callable[[Path], Path | None], str], ...] = (
    ("voc", _voc_sign, "Annotations and JPEGImages"),
    ("datumaro", _item_sign("datumaro"), "annotations/*.json with items"),
    ("coco", _coco_sign, "a JSON file with images, annotations and categories"),
    ("supervisely", _item_sign("supervisely"), "meta.json and ann/*.json"),
    ("yolo", find_yaml, "data.yaml"),
    ("voc", _xml_sign, "XML files of labelImg, Label Studio, Roboflow or Kaggle"),
    ("yolo", _class_file_sign, "classes.txt or obj.names with images and text files"),
    ("labelme", _item_sign("labelme"), "a JSON file with shapes beside each image"),
    ("csv", _csv_sign, "a CSV file of boxes"),
)
