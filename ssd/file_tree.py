"""Walking through folders of the user's and reading their text files; standard library only."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from ssd.errors import DataError

# What PIL reads without running other programs (as it would for EPS); of two files with one stem the first here is taken.
READABLE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".bmp", ".dib", ".webp", ".tif", ".tiff", ".gif"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".avif", ".tga"),
)
# Pictures that need another package. They are listed as images, so that each is named as unreadable and none vanishes.
NEEDS_PACKAGE = {
    **dict.fromkeys((".heic", ".heif", ".hif"), "pillow-heif"),
    **dict.fromkeys((".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2"), "rawpy"),
}
IMAGE_SUFFIXES = (*READABLE_SUFFIXES, *NEEDS_PACKAGE)

_MOST_FILES = 2_000_000
_MOST_FOLDERS = 50_000
_MOST_DEEP = 32
_MOST_TEXT = 1 << 30  # bytes


def walk(root: Path, *, deep: int = _MOST_DEEP) -> Iterator[Path]:
    """Yields the files below a folder, sorted, links followed; hidden files and folders are left out.

    Args:
        root: the folder.
        deep: levels of folders below `root` that are entered.

    Raises:
        DataError: the walk does not end: more files than any data set has.
    """
    stack: list[tuple[str, int, tuple[tuple[int, int], ...]]] = [(str(root), 0, ())]
    files = folders = 0
    while stack:
        folder, level, parents = stack.pop()
        try:
            status = os.stat(folder)
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError:
            continue
        here = (status.st_dev, status.st_ino)
        if here in parents:  # a link to a folder around it
            continue
        folders += 1
        below = []
        for entry in entries:
            if entry.name.startswith(".") or entry.name == "__MACOSX":
                continue
            if _is_folder(entry):
                below.append((entry.path, level + 1, (*parents, here)))
            else:
                files += 1
                yield Path(entry.path)
        if level < deep:
            stack += reversed(below)
        if files > _MOST_FILES or folders > _MOST_FOLDERS:
            raise DataError(f"{root} holds more than {files} files in {folders} folders; name the folder of the data")


def images_below(root: Path, **options: int) -> list[Path]:
    """Returns the image files below a folder, by their suffixes; see `walk`."""
    return [path for path in walk(root, **options) if path.suffix.lower() in IMAGE_SUFFIXES]


def is_within(path: Path, root: Path) -> bool:
    """Whether a path stays in a folder, `..` taken out; links in the folder may lead anywhere."""
    inner, outer = os.path.abspath(path), os.path.abspath(root)
    return inner == outer or inner.startswith(outer.rstrip(os.sep) + os.sep)


def read_text(path: Path) -> str:
    """Reads a text file: UTF-8, or UTF-16 or UTF-32 where its first bytes (the byte order mark) say so.

    Raises:
        FileNotFoundError: there is none.
        DataError: it cannot be read, or is in another encoding; with the line.
    """
    try:
        if path.stat().st_size > _MOST_TEXT:
            raise DataError(f"{path} is larger than 1 GiB")
        raw = path.read_bytes()
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    try:
        return raw.decode(_encoding(raw))
    except UnicodeError as error:
        line = raw.count(b"\n", 0, getattr(error, "start", 0)) + 1
        raise DataError(f"{path}, line {line}: the text is not UTF-8; save the file as UTF-8") from None


def _encoding(raw: bytes) -> str:
    if raw.startswith((b"\xff\xfe\0\0", b"\0\0\xfe\xff")):
        return "utf-32"
    return "utf-16" if raw.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False
