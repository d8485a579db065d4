"""Files that a detector reads: images, videos, tar files of images, lists of these, and streams. Without torch."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator
from pathlib import Path

from ssd.common.errors import DataError
from ssd.common.file_tree import IMAGE_SUFFIXES, read_text, walk

VIDEO_SUFFIXES = tuple(f".{name}" for name in "mp4 m4v mov avi mkv webm mpg mpeg wmv flv 3gp ogv m2ts mts".split())
_STREAM = re.compile(r"(rtsps?|rtmps?|rtp|udp|srt|tcp|https?)://.+|/dev/video\d+")


def stream_name(source: object) -> str | None:
    """Returns the device or URL of a camera (its number or /dev/video0) or network stream, or None for other sources."""
    if isinstance(source, int) and not isinstance(source, bool):
        return f"/dev/video{source}"
    if not isinstance(source, (str, Path)):
        return None
    name = str(source)
    if name.isdecimal() and not os.path.exists(name):
        return f"/dev/video{name}"
    return name if _STREAM.fullmatch(name) else None


def public_name(stream: str) -> str:
    """Returns the name of a stream without user name and password."""
    return re.sub("//[^/@]*@", "//", stream)


def is_live(name: str) -> bool:
    """Returns whether a stream continues while its reader waits, unlike a file from a web server."""
    return _STREAM.fullmatch(name) is not None and not name.startswith("http")


def is_video(path: str | os.PathLike[str]) -> bool:
    """Returns whether a path names a video file, by its suffix."""
    return os.fspath(path).lower().endswith(VIDEO_SUFFIXES)


def is_tar(path: str | os.PathLike[str]) -> bool:
    """Returns whether a path names a tar file, by its suffix."""
    return os.fspath(path).lower().endswith((".tar", ".tar.gz", ".tgz"))


def is_list(path: str | os.PathLike[str]) -> bool:
    """Returns whether a path names a text file with one source per line."""
    return os.fspath(path).lower().endswith(".txt")


def names_one_video(source: str | os.PathLike[str]) -> bool:
    """Returns whether a path or URL names one video file, camera or stream."""
    path = os.fspath(source)
    is_pattern = glob.has_magic(path) and not os.path.exists(path)
    return stream_name(path) is not None or (is_video(path) and not is_pattern and not os.path.isdir(path))


def names_many(source: str | os.PathLike[str]) -> bool:
    """Returns whether a path or URL names more than one image."""
    path = os.fspath(source)
    if stream_name(path) or is_video(path) or is_tar(path) or is_list(path):
        return True
    return os.path.isdir(path) or (glob.has_magic(path) and not os.path.exists(path))


def find_files(source: str | os.PathLike[str]) -> Iterator[str]:
    """Yields the image, video and tar files that a path names, in a fixed order.

    Args:
        source: A folder, with the images and videos below it; a glob pattern; a text file with one path per line,
            relative to its folder; or a file or stream, which is yielded whether it exists or not, so that it is
            reported with the others.

    Raises:
        DataError: The folder contains no images or videos, the pattern matches no file, or the list cannot be read.
    """
    path = os.fspath(source)
    if stream := stream_name(path):
        yield stream
    elif os.path.isdir(path):
        files = (
            str(file) for file in walk(Path(path)) if str(file).lower().endswith((*IMAGE_SUFFIXES, *VIDEO_SUFFIXES))
        )
        kinds = f"{', '.join(IMAGE_SUFFIXES)}; {', '.join(VIDEO_SUFFIXES)}; name tar files by a pattern such as '*.tar'"
        yield from _some(files, f"folder {path} contains no images or videos ({kinds})")
    elif glob.has_magic(path) and not os.path.exists(path):
        names = (name for name in sorted(glob.glob(path, recursive=True)) if os.path.isfile(name))
        files = (name for name in names if name.lower().endswith((*IMAGE_SUFFIXES, *VIDEO_SUFFIXES)) or is_tar(name))
        yield from _some(files, f"pattern {path} matches no images, videos or tar files")
    elif is_list(path):
        yield from _listed(Path(path))
    else:
        yield path


def _some(files: Iterator[str], message: str) -> Iterator[str]:
    first = next(files, None)
    if first is None:
        raise DataError(message)
    yield first
    yield from files


def _listed(path: Path) -> Iterator[str]:
    try:
        lines = read_text(path).splitlines()
    except FileNotFoundError:
        raise DataError(f"list {path} does not exist") from None
    for line in filter(None, map(str.strip, lines)):
        yield stream_name(line) or str(path.parent / line)
