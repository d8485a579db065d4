"""Walks folders of the user and reads their text files. Standard library only."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from ssd.common.errors import DataError

# Formats that PIL decodes without running other programs (as for EPS), in order of preference for files of one stem.
READABLE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".bmp", ".dib", ".webp", ".tif", ".tiff", ".gif"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".avif", ".tga"),
)
# Formats that need another package. They count as images, so that each is reported as unreadable and none is skipped.
NEEDS_PACKAGE = {
    **dict.fromkeys((".heic", ".heif", ".hif"), "pillow-heif"),
    **dict.fromkeys((".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2"), "rawpy"),
}
IMAGE_SUFFIXES = (*READABLE_SUFFIXES, *NEEDS_PACKAGE)

_MAX_FILES = 2_000_000
_MAX_FOLDERS = 50_000
_MAX_DEPTH = 32
_MAX_TEXT_BYTES = 1 << 30


def walk(root: Path, *, max_depth: int = _MAX_DEPTH) -> Iterator[Path]:
    """Yields the files below a folder in sorted order, following links and skipping hidden files and folders.

    Args:
        root: Folder to start from.
        max_depth: Number of folder levels below `root` to enter.

    Raises:
        DataError: There are more files or folders than any data set has.
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
        if here in parents:  # a link to one of its own parents
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
        if level < max_depth:
            stack += reversed(below)
        if files > _MAX_FILES or folders > _MAX_FOLDERS:
            raise DataError(
                f"{root} contains more than {files} files in {folders} folders; give the folder of the data set itself"
            )


def images_below(root: Path, **options: int) -> list[Path]:
    """Returns the image files below a folder, recognized by their suffix; the options are those of `walk`."""
    return [path for path in walk(root, **options) if path.suffix.lower() in IMAGE_SUFFIXES]


def is_within(path: Path, root: Path) -> bool:
    """Returns whether a path is inside a folder after resolving `..`; links are not resolved."""
    inner, outer = os.path.abspath(path), os.path.abspath(root)
    return inner == outer or inner.startswith(outer.rstrip(os.sep) + os.sep)


def read_regular(path: Path) -> bytes:
    """Returns the content of a file.

    Raises:
        OSError: The file does not exist or cannot be read.
        DataError: It is not a regular file: a pipe would block forever.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise DataError(f"{path} is not a regular file")
    return path.read_bytes()


def read_text(path: Path) -> str:
    """Reads a text file in UTF-8, or in UTF-16 or UTF-32 with a byte order mark.

    Raises:
        FileNotFoundError: The file does not exist.
        DataError: The file cannot be read or has another encoding; the message names the line.
    """
    try:
        if path.stat().st_size > _MAX_TEXT_BYTES:
            raise DataError(f"{path} is larger than 1 GiB")
        raw = read_regular(path)
    except (FileNotFoundError, DataError):
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
