"""Training and validation images: existing splits of a data set, or a random part of its images as validation set."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ssd.common.errors import NoSplitError
from ssd.data.dataset import DetectionDataset
from ssd.data.faults import DataError
from ssd.data.formats.custom import CustomDataset
from ssd.data.formats.split_names import canonical
from ssd.data.registry import open_dataset


def open_splits(
    name: str,
    path: str | Path | None,
    train: str,
    val: str,
    fraction: float,
    options: Mapping[str, Any],
    training_only: tuple[str, ...] = (),
) -> tuple[DetectionDataset, DetectionDataset]:
    """Opens the training and validation sets, and prints how the images were divided if the data set has no such splits.

    Args:
        name: Name of the data set, see `open_dataset`.
        path: Folder of the data set.
        train: Training split. If the data set has no splits at all, all images are divided.
        val: Validation split. If it does not exist, this `fraction` of the images of `train` is used, but only for
            "val" and its synonyms, or if the data set is not split.
        fraction: Fraction of validation images, 0 .. 1; with 0, evaluation uses the training images.
        options: Options of the data set.
        training_only: Names of options that are not used for evaluation.

    Raises:
        DataError: As in `open_dataset`; or only the validation split exists; or another one than "val" does not.
    """
    plain = {key: value for key, value in options.items() if key not in training_only}
    is_same = train == val
    try:
        train_set = open_dataset(name, path, train, **options)
        missing = ""
    except NoSplitError as error:
        if any(canonical(split) for split in error.splits) or len(error.splits) > 1:
            raise
        missing, train = train, "all"
        train_set = open_dataset(name, path, train, **options)
    if not missing:
        if name in ("voc", "csv"):
            plain.setdefault("classes", train_set.classes)  # names found in the training split, in its order
        try:
            val_set = open_dataset(name, path, val, **plain)
        except NoSplitError as error:
            if error.splits and canonical(val) != "val":  # a name of its own, such as 2007_test, or a typo
                raise
            missing = val
        else:
            # Readers of files without splits return the same images for any split.
            val_set = with_classes_of(val_set, train_set)
            if is_same or not _same_files(train_set, val_set) or ":" in name or name == "shapes":
                _warn_of_overlap(name, train_set, val_set)
                return train_set, val_set
    whole = train_set if plain == dict(options) else open_dataset(name, path, train, **plain)
    same = f"the splits {train} and {val} of {path} are the same images"
    why = f"{path} has no split {missing!r}" if missing else same
    return _divided(train_set, whole, fraction, path or ".", why, is_same)


def with_classes_of(dataset: DetectionDataset, other: DetectionDataset) -> DetectionDataset:
    """Returns a split with the classes of another one, in their order, if that has all of its own."""
    if isinstance(dataset, CustomDataset) or dataset.classes == other.classes:
        return dataset  # the items of a custom data set have labels of their own
    return dataset.with_classes(other.classes) if set(dataset.classes) <= set(other.classes) else dataset


def _divided(
    train_set: DetectionDataset, whole: DetectionDataset, fraction: float, root: str | Path, why: str, is_same: bool
) -> tuple[DetectionDataset, DetectionDataset]:
    # Both have the same images, except for those that a training option drops; is_same: the training part is evaluated.
    faults = whole.log.new_entries()
    if faults:
        print(f"warning: {whole.name}: faults\n{faults}")
    chosen = choose_validation(whole, fraction, root)
    if not chosen:
        print(f"warning: {why} and --val-share is {fraction:g}: the model is evaluated on its training images")
        return train_set, whole
    files = {str(whole.annotations.files[row]) for row in chosen}
    kept = [row for row, file in enumerate(train_set.annotations.files) if str(file) not in files]
    if not kept:
        print(f"warning: {why} and there are too few images to divide: the model is evaluated on its training images")
        return train_set, whole
    print(
        f"split: {len(kept)} images to train on, {len(chosen)} to evaluate on, since {why}; chosen by a hash of their "
        f"names and by class (--val-share {fraction:g})"
    )
    train_part = train_set.subset(kept, f"{train_set.name}, training part")
    if not is_same:
        return train_part, whole.subset(chosen, f"{whole.name}, validation part")
    print("warning: the splits to train and to evaluate on are the same: the training part is evaluated")
    rows = sorted(set(range(len(whole))) - set(chosen))
    return train_part, whole.subset(rows, f"{whole.name}, training part")


def choose_validation(dataset: DetectionDataset, fraction: float, root: str | Path) -> list[int]:
    """Selects a fraction of the images, always the same ones.

    Images are grouped by their rarest class. In each group, the images with the lowest hashes of their names are
    selected, but never all, so that every class keeps training images. Adding images changes the selection little.

    Args:
        dataset: The data set.
        fraction: Fraction of the images.
        root: Folder that names are relative to, so that moving the data set does not change the selection.

    Returns:
        Ascending indices; at least one if `fraction` is above 0 and there are two images.
    """
    if not 0 <= fraction < 1:
        raise DataError(f"the fraction of images for validation must be in [0, 1), got {fraction}")
    if fraction == 0 or len(dataset) < 2:
        return []
    names = dataset.relative_names(root)
    hashes = [hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest() for name in names]
    groups: dict[int, list[int]] = {}
    for row, group in enumerate(_rarest_classes(dataset)):
        groups.setdefault(group, []).append(row)
    chosen: list[int] = []
    target = 0.0
    for group, rows in sorted(groups.items(), key=lambda item: (len(item[1]), item[0])):
        target += len(rows) * fraction
        count = min(round(target - len(chosen)), len(rows) - (group > 0))
        chosen += sorted(rows, key=hashes.__getitem__)[: max(count, 0)]
    return sorted(chosen) or [min(range(len(dataset)), key=hashes.__getitem__)]


def _rarest_classes(dataset: DetectionDataset) -> list[int]:
    # For each image its class that the fewest images have; 0 without objects.
    notes = dataset.annotations
    images = notes.images_of_objects()[~notes.ignore]
    pairs = np.unique(np.stack([images, notes.labels[~notes.ignore]]), axis=1)
    frequency = np.bincount(pairs[1], minlength=dataset.num_classes)
    rarest = [0] * len(notes)
    for image, label in pairs.T.tolist():
        if rarest[image] == 0 or frequency[label] < frequency[rarest[image]]:
            rarest[image] = label
    return rarest


def _same_files(one: DetectionDataset, other: DetectionDataset) -> bool:
    if len(one) != len(other):
        return False
    return set(one.annotations.files.tolist()) == set(other.annotations.files.tolist())


def _warn_of_overlap(name: str, train_set: DetectionDataset, val_set: DetectionDataset) -> None:
    if ":" in name:  # a custom data set has no files that could be compared
        return
    known = set(train_set.annotations.files.tolist())
    both = sum(file in known for file in val_set.annotations.files.tolist())
    if both:
        print(
            f"warning: {both} of the {len(val_set)} validation images are also training images, so the evaluation says "
            "little about other images"
        )
