"""The names that tools give to splits; standard library only."""

from __future__ import annotations

import re
from pathlib import PurePath

_NAMES = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}
_CANONICAL = {name: split for split, names in _NAMES.items() for name in names}
# What tools call the only part of a data set that is not split: CVAT, Label Studio, FiftyOne, datumaro.
UNSPLIT = ("default", "all", "result", "labels", "annotations", "instances", "data")


def aliases(split: str) -> tuple[str, ...]:
    """Returns the names that a split may have, the requested one first: "val" is also "valid" and CVAT's "Validation"."""
    known = _NAMES.get(_CANONICAL.get(split.lower(), ""), ())
    return tuple(dict.fromkeys((split, *known, *(name.capitalize() for name in known))))


def canonical(word: str) -> str | None:
    """Returns "train", "val" or "test" if a word is a name of one, possibly followed by a year or number; else None."""
    return _CANONICAL.get(re.sub(r"[-_]?\d+$", "", word.lower()))


def split_of_folder(path: PurePath) -> str | None:
    """Returns the split that a folder of a relative path names, or None."""
    return next((found for part in path.parts[:-1] if (found := canonical(part)) is not None), None)


def split_of_file(path: PurePath) -> str | None:
    """Returns the split that a file's name or its folders name: "instances_train2017.json", "train/_annotations.csv"."""
    words = re.split(r"[^a-z0-9]+", path.stem.lower())
    return next((found for word in words if (found := canonical(word)) is not None), split_of_folder(path))
