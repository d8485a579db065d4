"""Splits of PASCAL VOC: one list, or a union of lists of one or several years.

A split is one or more parts joined by `+`:

* `train`, `trainval`, ...: a list of the folder itself, or of the one year that a devkit folder has.
* `2007_trainval`, `2012_trainval`, ...: a list of the folder VOC2007, VOC2012, ... of a devkit.

So the usual "07+12" is `2007_trainval+2012_trainval`.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from ssd.common.errors import NoSplitError
from ssd.common.file_tree import read_text
from ssd.config.dataset_format import is_voc_folder, voc_years
from ssd.data.faults import DataError
from ssd.data.formats.folders import describe_folder, files_by_stem
from ssd.data.formats.split_names import aliases

_FLAGS = ("-1", "0", "1")
_YEAR = re.compile(r"(?:VOC)?(\d{4})_(.+)")


@dataclass(frozen=True)
class VOCList:
    """The names of the images that one part of a split lists, in its order."""

    folder: Path  # with Annotations, ImageSets and JPEGImages
    names: tuple[str, ...]


def read_lists(root: Path, split: str) -> list[VOCList]:
    """Returns the lists of a split; an image of several lists is taken from the first.

    Args:
        root: a VOC folder (Annotations, ImageSets, JPEGImages), or a devkit folder that holds VOC2007, VOC2012, ...,
            itself or in VOCdevkit.
        split: See the module.

    Raises:
        DataError: No such folder, year or list, or a list without images.
    """
    lists: list[VOCList] = []
    seen: dict[Path, set[str]] = {}
    for part in split.split("+"):
        folder, name = _locate(root, part.strip(), split)
        known = seen.setdefault(folder, set())
        names = tuple(n for n in _read_names(folder, name) if n not in known)
        known.update(names)
        lists.append(VOCList(folder, names))
    return lists


def _locate(root: Path, part: str, split: str) -> tuple[Path, str]:
    # The folder and the list's name of one part.
    years = voc_years(root)
    match = _YEAR.fullmatch(part)
    if match and match[1] in years:
        return years[match[1]], match[2]
    if is_voc_folder(root):
        # The folder VOC2007 was named, not the devkit around it: its own year is there, and its neighbors.
        if match and not _candidates(root, part)[0].is_file():
            beside = voc_years(root.parent)
            if match[1] in beside and root.resolve() in [folder.resolve() for folder in beside.values()]:
                return beside[match[1]], match[2]
        return root, part
    if match and years:
        raise DataError(f"{root} has no VOC{match[1]} for the split {split!r}; years found: {', '.join(years)}")
    if len(years) == 1:
        return next(iter(years.values())), part
    if years:
        first = next(iter(years))
        raise DataError(
            f"{root} has several years ({', '.join(years)}), so the split {split!r} must name one, such as "
            f"'{first}_{part}', or join some with '+'"
        )
    raise DataError(
        f"{root} is not a PASCAL VOC folder: expected Annotations/, ImageSets/Main/{part}.txt and JPEGImages/, or "
        f"VOC2007/, VOC2012/ and so on with these in them, {describe_folder(root)}"
    )


def _candidates(folder: Path, name: str) -> list[Path]:
    return [parent / f"{name}.txt" for parent in (folder / "ImageSets" / "Main", folder / "ImageSets")]


def _read_names(folder: Path, name: str) -> list[str]:
    candidates = [path for alias in aliases(name) for path in _candidates(folder, alias)]
    for path in candidates:
        if path.is_file():
            break
    else:
        # Exclude the many lists of single classes (cat_train.txt).
        found = {p.stem for candidate in candidates[:2] for p in candidate.parent.glob("*.txt")}
        splits = tuple(sorted(f for f in found if "_" not in f or f.rpartition("_")[2] not in found))
        listed = ", ".join(splits) or "none"
        raise NoSplitError(
            f"no list of the split {name!r} in {folder}: expected {candidates[0]}; splits found: {listed}", splits
        )
    known = files_by_stem(folder / "JPEGImages")
    names = [_image_name(line.strip(), known) for line in read_text(path).splitlines() if line.strip()]
    if not names:
        raise DataError(f"{path} lists no image")
    return list(dict.fromkeys(names))


def _image_name(line: str, known: Collection[str]) -> str:
    # The whole line if an image has this name, spaces included. In lists of single classes a flag follows the name.
    name, _, flag = line.rpartition(" ")
    for candidate in (line, name.rstrip() if flag in _FLAGS else "", line.split()[0]):
        short = candidate.rpartition(".")[0]
        if candidate in known or short in known:
            return candidate if candidate in known else short
    return name.rstrip() if name and flag in _FLAGS else line
