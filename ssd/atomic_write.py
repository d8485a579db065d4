"""Files that are either the old version or the new one, never half of it, whatever happens while they are written."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)  # O_BINARY: Windows alone


class WriteError(OSError):
    """A file could not be written; the message names the file, the reason and what to do. The old file is unchanged."""


def write_atomically(path: Path, write: Callable[[IO[bytes]], Any], size: int | None = None) -> None:
    """Write a file next to its final place, flush it to the disk, then rename it.

    Args:
        path: the file; what is there is replaced at the end and is whole until then.
        write: writes the content to the binary file that it is given.
        size: bytes that the content needs, for the message of a full disk.
    Raises:
        WriteError: the disk is full, the folder is read-only, ...; the unfinished file is removed.
    """
    part = path.with_name(path.name + ".part")
    watched = None
    try:
        part.unlink(missing_ok=True)  # of a process that was killed; a link is removed, not followed
        with open(os.open(part, _NEW_FILE, 0o666), "wb") as file:
            watched = _Watched(file)
            write(watched)  # type: ignore[arg-type]
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
        _sync_folder(path.parent)
    except BaseException as error:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        reason = watched.error if watched and watched.error else error  # torch.save hides the reason behind its own
        if isinstance(reason, OSError):
            raise WriteError(_explain(path, reason, size)) from error
        raise


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file atomically."""
    write_atomically(path, lambda file: file.write(text.encode("utf-8")))


class _Watched:
    """A file that remembers the error of a write."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            return self.file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self.file.flush()


def _explain(path: Path, error: OSError, size: int | None) -> str:
    message = f"cannot write {path}: {error.strerror or error}"
    with contextlib.suppress(OSError):
        message += f" ({_mega(size)} needed, " if size is not None else " ("
        message += f"{_mega(shutil.disk_usage(path.parent).free)} free in {path.parent})"
    return message + (f"; the previous {path.name} is unchanged" if path.is_file() else "")


def _mega(size: int) -> str:
    return f"{size / 1e6:.1f} MB"


def _sync_folder(folder: Path) -> None:
    """Make a rename survive a power failure, where the system can."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
