"""The splits of a data set, each opened once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ssd.common.errors import DataError, NoSplitError
from ssd.data import DetectionDataset
from ssd.data.registry import open_dataset
from ssd.data.splits import with_classes_of

USUAL = ("train", "val", "test")


def open_all(
    name: str, path: str, splits: tuple[str, ...], options: Mapping[str, Any]
) -> tuple[dict[str, DetectionDataset], list[str]]:
    """Opens splits of a data set.

    Args:
        name: Its format, as `open_dataset` takes it.
        path: Its folder.
        splits: Names; if empty, those of train, val and test that exist, or else all images as one.
        options: Options of its reader.

    Returns:
        Split -> data set, and remarks. Splits with the very same images are one, "all".

    Raises:
        DataError: A split that was named does not exist, or a data set cannot be opened.
    """
    found: dict[str, DetectionDataset] = {}
    others: tuple[str, ...] = ()
    for split in splits or USUAL:
        try:
            found[split] = _open(name, path, split, found, options)
        except NoSplitError as error:
            if splits:
                raise
            others = others or error.splits
    if not found:
        return _open_others(name, path, others, options), []
    files = [frozenset(dataset.annotations.files.tolist()) for dataset in found.values()]
    if len(found) > 1 and len(set(files)) == 1:
        first = next(iter(found.values()))
        return {"all": first}, [f"{', '.join(found)} have the same images: the files do not distinguish splits"]
    return found, []


def _open_others(
    name: str, path: str, others: tuple[str, ...], options: Mapping[str, Any]
) -> dict[str, DetectionDataset]:
    # a devkit has splits such as 2007_trainval, an export of a tool has none
    try:
        return {"all": open_dataset(name, path, "all", **options)}
    except DataError:
        if not others:
            raise
    found: dict[str, DetectionDataset] = {}
    for split in others:
        found[split] = _open(name, path, split, found, options)
    return found


def _open(
    name: str, path: str, split: str, found: Mapping[str, DetectionDataset], options: Mapping[str, Any]
) -> DetectionDataset:
    dataset = open_dataset(name, path, split, **_with_classes(name, found, options))
    return with_classes_of(dataset, next(iter(found.values()))) if found else dataset


def _with_classes(name: str, found: Mapping[str, DetectionDataset], options: Mapping[str, Any]) -> dict[str, Any]:
    # classes that a reader finds in the annotations are the same in all splits
    if name in ("voc", "csv") and found and "classes" not in options:
        return {**options, "classes": next(iter(found.values())).classes}
    return dict(options)
