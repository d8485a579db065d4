"""Finding out the format of a folder of the user's; standard library only.

The signs, in the order in which they decide:

* voc: Annotations and JPEGImages, in the folder or in VOC2007, VOC2012, ... below it.
* coco: a JSON file that begins like COCO's, in the folder, in annotations/, or as SPLIT/_annotations.coco.json.
* yolo: a YAML file with the key names, or classes.txt (obj.names) beside images or labels.
* csv: a CSV file, in the folder, in annotations/, or as SPLIT/_annotations.csv.
"""

from __future__ import annotations

import re
from pathlib import Path

from ssd.config import ConfigError, TrainConfig

YOLO_CLASS_FILES = ("classes.txt", "labels/classes.txt", "obj.names", "labels.txt")
_COCO_START = re.compile(rb'\s*{\s*"(info|licenses|images|annotations|categories|type)"\s*:')


def resolve_dataset(config: TrainConfig) -> None:
    """Replace the data set "auto" by the format that the folder has, and print it; without a folder, by the drawn shapes.

    Raises:
        ConfigError: the folder has none of the formats.
    """
    if config.dataset != "auto":
        return
    if config.data_path is None:
        config.dataset = "shapes"
        return
    found = find_formats(Path(config.data_path))
    if not found:
        raise ConfigError(
            f"--data-path {config.data_path} has none of the formats known: voc (Annotations, JPEGImages), coco (a JSON "
            "file), yolo (data.yaml or classes.txt), csv; a data set of your own is named by --dataset module:function"
        )
    (config.dataset, sign), *others = found.items()
    also = "".join(f"; {name} would be possible too ({other}), by --dataset {name}" for name, other in others)
    print(f"data set: {config.dataset}, because of {sign}{also}")


def find_formats(root: Path) -> dict[str, Path]:
    """Return the formats that a folder has, the most telling first, each with the file or folder that is its sign."""
    signs = {"voc": _voc_sign(root), "coco": _coco_sign(root), "yolo": _yolo_sign(root), "csv": _csv_sign(root)}
    return {name: sign for name, sign in signs.items() if sign is not None}


def is_voc_folder(folder: Path) -> bool:
    """Whether the folder itself holds annotations and images in VOC's way."""
    return (folder / "Annotations").is_dir() and (folder / "JPEGImages").is_dir()


def voc_years(root: Path) -> dict[str, Path]:
    """Return year -> folder of the years in a devkit folder."""
    found = {}
    for parent in (root / "VOCdevkit", root):
        for folder in sorted(parent.glob("VOC[0-9][0-9][0-9][0-9]")):
            if is_voc_folder(folder):
                found[folder.name[3:]] = folder
    return found


def find_yaml(root: Path) -> Path | None:
    """Return the YAML file that describes a YOLO data set, data.yaml before any other with the key names."""
    found = [path for path in sorted(root.glob("*.y*ml")) if path.suffix in (".yaml", ".yml")]
    found.sort(key=lambda path: path.stem not in ("data", "dataset"))
    for path in found:
        lines = path.read_text(encoding="utf-8-sig", errors="replace").splitlines()
        if any(line.startswith(("names:", '"names":')) for line in lines):
            return path
    return None


def _voc_sign(root: Path) -> Path | None:
    if is_voc_folder(root):
        return root / "Annotations"
    return next((folder / "Annotations" for folder in voc_years(root).values()), None)


def _coco_sign(root: Path) -> Path | None:
    for pattern in ("annotations/*.json", "*/_annotations.coco.json", "*.json"):
        for path in sorted(root.glob(pattern)):
            with path.open("rb") as file:
                if _COCO_START.match(file.read(200).removeprefix(b"\xef\xbb\xbf")):
                    return path
    return None


def _yolo_sign(root: Path) -> Path | None:
    has_folders = (root / "images").is_dir() or (root / "labels").is_dir() or any(root.glob("*/labels"))
    named = next((root / name for name in YOLO_CLASS_FILES if (root / name).is_file()), None)
    return find_yaml(root) or (named if has_folders else None)


def _csv_sign(root: Path) -> Path | None:
    patterns = ("*.csv", "annotations/*.csv", "*/_annotations.csv", "*/annotations.csv")
    return next((path for pattern in patterns for path in sorted(root.glob(pattern))), None)
