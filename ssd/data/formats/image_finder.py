"""Finds the image that an annotation belongs to, among all files of a data set."""

import os
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path, PurePath
from urllib.parse import unquote

from ssd.common.file_tree import IMAGE_SUFFIXES, is_within, walk
from ssd.data.faults import DataError, shorten
from ssd.data.formats.split_names import split_of_folder

# Names of folders that only say which kind of files they hold.
_KINDS = frozenset(
    "annotations annotation annots ann xml xmls labels label txt json images image img imgs jpegimages photos pictures "
    "data obj_train_data obj_valid_data obj_val_data obj_test_data".split()
)


class ImageFinder:
    """Finds images by the names that annotations give them.

    A name is first searched unchanged below `folders`; then without its first folders, because exporters write paths of
    the machine that they ran on; finally by its file name anywhere in the data set. No file outside of `within` and
    `folders` is ever used.

    Args:
        root: Folder of the data set.
        folders: Folders to search, the most likely first.
        given: Whether `folders` come from an option and are the only ones to search.
        within: Folder that names may not leave; None: `root`.
    """

    def __init__(self, root: Path, folders: list[Path], given: bool = False, within: Path | None = None) -> None:
        self.root, self.given = root, given
        self.within = (within or root, *folders) if given else (within or root,)
        self.folders = list(dict.fromkeys(folders))
        self._listed: dict[Path, frozenset[str]] = {}

    def find_all(self, entries: Iterable[tuple[str, PurePath | None]]) -> list[Path | None]:
        """Returns the files of images, None for one that is missing or outside of the data set.

        A file with exactly the name of one entry belongs to that entry only, and a file that is only similar to two entries
        belongs to none: a missing image is not replaced by one of the same file name in another folder.

        Args:
            entries: For each image its name in the annotation, with or without folders and suffix, and the path of the
                annotation file below `root` (of several images with one name, that of the same split is used).
        """
        names = [(_clean(name), near) for name, near in entries]
        return _belonging([(name, *self._find(name, near)) for name, near in names])

    def for_labels(self, labels: Sequence[Path]) -> list[Path | None]:
        """Returns the images of annotation files that have the image's name: beside it, or in a folder for images."""
        return _belonging([(str(label), *self._of_label(label)) for label in labels])

    def has(self, name: str) -> bool:
        """Returns whether the unchanged name is a file below one of the folders."""
        return self._at(PurePath(_clean(name)).parts) is not None

    def _find(self, name: str, near: PurePath | None) -> tuple[Path | None, bool]:
        # The file, and whether its path ends with the whole name.
        # Label Studio writes escapes such as %20; if the locale is not UTF-8, Python decodes file names differently.
        # A Mac writes letters with accents as two characters, other systems as one.
        forms = (unicodedata.normalize(form, name) for form in ("NFC", "NFD"))
        decoded = os.fsdecode(name.encode(errors="surrogateescape"))
        for spelled in dict.fromkeys((name, _clean(unquote(name)), decoded, *forms)):
            parts = PurePath(spelled).parts
            for first in range(len(parts)):
                if (path := self._at(parts[first:])) is not None:
                    return path, first == 0
            if parts and (path := self._by_last_part(PurePath(spelled), near)) is not None:
                return path, False
        return None, False

    def _at(self, parts: tuple[str, ...]) -> Path | None:
        for folder in self.folders if parts else ():
            path = Path(os.path.normpath(folder.joinpath(*parts)))
            if self._is_file(path) and any(is_within(path, limit) for limit in self.within):
                return path
        return None

    def _of_label(self, label: Path) -> tuple[Path | None, bool]:
        pair = _pair_path(label.relative_to(self.root))
        found = self._stems.get(label.stem, [])
        same = [image for image in found if _pair_path(image.relative_to(self.root)) == pair]
        if same:
            return same[0], True
        split = split_of_folder(label.relative_to(self.root))
        alike = [image for image in found if split_of_folder(image.relative_to(self.root)) == split]
        return (alike[0] if len(alike) == 1 else None), False

    def _by_last_part(self, name: PurePath, near: PurePath | None) -> Path | None:
        found = self._names.get(name.name.lower(), []) or self._stems.get(name.name, [])
        if len(found) > 1:
            split = split_of_folder(name) or (split_of_folder(near) if near is not None else None)
            ends = [image for image in found if image.parts[-len(name.parts) :] == name.parts]
            found = ends if len(ends) == 1 else [f for f in found if split_of_folder(f.relative_to(self.root)) == split]
        return found[0] if len(found) == 1 else None

    def _is_file(self, path: Path) -> bool:
        # By a listing of its folder: testing each file takes minutes on a network disk.
        folder = path.parent
        if folder not in self._listed:
            try:
                with os.scandir(folder) as entries:
                    self._listed[folder] = frozenset(entry.name for entry in entries if not entry.is_dir())
            except (OSError, ValueError):
                self._listed[folder] = frozenset()
        return path.name in self._listed[folder]

    @cached_property
    def _images(self) -> list[Path]:
        folders = self.folders if self.given else [self.root]
        return [path for folder in folders for path in walk(folder) if path.suffix.lower() in IMAGE_SUFFIXES]

    @cached_property
    def _names(self) -> dict[str, list[Path]]:
        names: dict[str, list[Path]] = defaultdict(list)
        for path in self._images:
            names[path.name.lower()].append(path)
        return names

    @cached_property
    def _stems(self) -> dict[str, list[Path]]:
        stems: dict[str, list[Path]] = defaultdict(list)
        for path in sorted(self._images, key=lambda path: IMAGE_SUFFIXES.index(path.suffix.lower())):
            stems[path.stem].append(path)
        return stems


def check_inside(path: Path, root: Path, source: str) -> None:
    """Raises `DataError` if a path in a file of the data set is outside of the data set's folder."""
    if not is_within(path, root):
        raise DataError(
            f"{source} names {shorten(path)}, outside of {root}; if this is intended, "
            "--dataset-option allow_outside=true allows it"
        )


def _belonging(found: list[tuple[str, Path | None, bool]]) -> list[Path | None]:
    # Entries are (name, file, whether the file has the whole name); returns the files that match one entry only.
    exact = {path for _, path, is_exact in found if is_exact}
    guesses: dict[Path, set[str]] = defaultdict(set)
    for name, path, is_exact in found:
        if path is not None and not is_exact:
            guesses[path].add(name)
    return [
        path if path is None or is_exact or (path not in exact and len(guesses[path]) == 1) else None
        for _, path, is_exact in found
    ]


def _clean(name: str) -> str:
    # "" if it cannot be the name of a file.
    clean = name.replace("\\", "/").split("://")[-1]
    return "" if "\0" in clean or len(clean) > 4096 else clean


def _pair_path(path: PurePath) -> tuple[str, ...]:
    return tuple(part for part in path.parts[:-1] if part.lower() not in _KINDS)
