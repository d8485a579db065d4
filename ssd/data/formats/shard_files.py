"""The index and the arrays of a packed data set, checked: they may be damaged, or made by others."""

from __future__ import annotations

import json
import math
import tokenize
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from ssd.common.file_tree import is_within, read_text
from ssd.data.annotations import Annotations
from ssd.data.faults import DataError

INDEX = "shards.json"
VERSION = 2
_AGAIN = "pack the data set again"
_FIELDS = tuple(field.name for field in fields(Annotations))
# kind of dtype, and columns
_ARRAYS: dict[str, tuple[str, tuple[int, ...]]] = {
    "files": ("U", ()),
    "image_ids": ("i", ()),
    "sizes": ("i", (2,)),
    "boxes": ("f", (4,)),
    "labels": ("i", ()),
    "ignore": ("b", ()),
    "offsets": ("i", ()),
    "coco": ("f", (5,)),
    "positions": ("i", (3,)),
}


def arrays_folder(root: Path, split: str) -> Path:
    """Returns the folder with the arrays of a split."""
    return root / f"{split}-arrays"


def read_index(root: Path) -> dict[str, Any]:
    """Returns the content of `shards.json`.

    Raises:
        DataError: It is missing or damaged, has another version, or names files outside of the folder.
    """
    path = root / INDEX
    try:
        index = json.loads(read_text(path))
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}; ssd data pack writes it") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not JSON ({error}); {_AGAIN}") from None
    if not isinstance(index, dict) or index.get("version") != VERSION:
        version = index.get("version") if isinstance(index, dict) else None
        raise DataError(f"{path} has version {version!r}, this program reads {VERSION}; {_AGAIN}")
    classes: Any = index.get("classes")
    splits: Any = index.get("splits")
    _require(_are_names(classes) and bool(classes), path, "classes must be a list of names")
    _require(isinstance(index.get("format"), str), path, "format must be a name")
    _require(isinstance(splits, dict) and bool(splits), path, "splits must be an object with a split or more")
    for split, about in splits.items():
        _check_split(root, path, split, about, index.get("source"))
    return index


def open_arrays(root: Path, split: str, in_shards: bool) -> tuple[Annotations, np.ndarray | None]:
    """Maps the arrays of a split into memory.

    Returns:
        Annotations, and with tar files int64 `[N, 3]`: number of the tar file, offset and size of each image.

    Raises:
        DataError: An array is missing or damaged, or they do not belong together.
    """
    folder = arrays_folder(root, split)
    names = [name for name in _FIELDS if name != "coco" or (folder / "coco.npy").exists()]
    arrays = {name: _load(folder, name) for name in (*names, *(["positions"] if in_shards else []))}
    images, objects = len(arrays["files"]), len(arrays["labels"])
    lengths = {"image_ids": images, "sizes": images, "positions": images, "offsets": images + 1}
    if not all(len(array) == lengths.get(name, objects) for name, array in arrays.items() if name != "files"):
        raise DataError(f"{folder}: the arrays do not belong together; {_AGAIN}")
    positions = arrays.pop("positions", None)
    return Annotations(**arrays), positions


def check_values(notes: Annotations, positions: np.ndarray | None, folder: Path, classes: int, shards: int) -> None:
    """Raises a DataError for values that no data set has; reads all of them, so call it once, not in each process.

    Args:
        notes: Annotations.
        positions: Positions of the images in tar files, see `open_arrays`; None without tar files.
        folder: Result of `arrays_folder`, for messages.
        classes: Number of classes without the background.
        shards: Number of tar files.
    """
    ends = notes.offsets[[0, -1]].tolist()
    if ends != [0, len(notes.labels)] or (np.diff(notes.offsets) < 0).any():
        raise DataError(f"{folder}: the arrays do not belong together; {_AGAIN}")
    ranges: list[tuple[str, np.ndarray, float, float]] = [
        ("labels", notes.labels, 1, classes),
        ("boxes", notes.boxes, 0, 2**31),
        ("sizes", notes.sizes, 1, 2**31),
    ]
    if positions is not None:
        names = ("number of a tar file", "offset", "size of an image")
        limits = ((0, shards - 1), (0, math.inf), (1, 2**31))
        ranges += [(f"positions, {names[n]}", positions[:, n], *limits[n]) for n in range(3)]
    for name, values, low, high in ranges:
        # not the opposite comparison, which NaN passes
        if len(values) and not (values.min() >= low and values.max() <= high):
            file = folder / f"{name.partition(',')[0]}.npy"
            raise DataError(
                f"{file} has values from {values.min()} to {values.max()}, outside of {low} .. {high} ({name}); {_AGAIN}"
            )


def _check_split(root: Path, path: Path, split: str, about: Any, source: object) -> None:
    _require(
        isinstance(about, dict) and _are_names(about.get("shards")), path, f"{split}: shards must be a list of names"
    )
    flags = [about.get(name) for name in ("apply_exif", "by_size")]
    _require(
        all(isinstance(flag, bool) for flag in flags), path, f"{split}: apply_exif and by_size must be true or false"
    )
    files = [arrays_folder(root, split), *(root / name for name in about["shards"])]
    outside = next((file for file in files if not is_within(file, root)), None)
    _require(outside is None, path, f"{split}: {outside} is outside of the folder")
    is_known = bool(about["shards"]) or isinstance(source, str)
    _require(is_known, path, f"{split} has no tar files, so source must name the folder of its images")


def _are_names(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) and name for name in value)


def _require(is_right: bool, path: Path, message: str) -> None:
    if not is_right:
        raise DataError(f"{path}: {message}; {_AGAIN}")


def _load(folder: Path, name: str) -> np.ndarray:
    path, (kind, columns) = folder / f"{name}.npy", _ARRAYS[name]
    try:
        array: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, TypeError, EOFError, OverflowError, MemoryError, tokenize.TokenError) as error:
        raise DataError(f"{path} cannot be read ({error}); {_AGAIN}") from None
    if array.dtype.kind != kind or not array.dtype.isnative or array.ndim == 0 or array.shape[1:] != columns:
        raise DataError(f"{path} has the shape {list(array.shape)} and dtype {array.dtype}; {_AGAIN}")
    return array.view(np.ndarray)  # a plain array over the mapped file: np.memmap is slow to index
