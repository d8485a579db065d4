"""Atomic file writes: a file has either its old or its new content, even if writing is interrupted."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from ssd.common.errors import ConfigError

_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)  # O_BINARY: Windows only


class WriteError(OSError):
    """A file could not be written; the message names the file and the reason. The previous file is unchanged."""


def check_writable(
    flag: str, path: str | os.PathLike[str], *, is_folder: bool = False, makes_parents: bool = False
) -> None:
    """Checks that a file or folder can be written, before the work of which it gets the result.

    `makes_parents`: the writer of a file creates its folder, as that of a folder always does.

    Raises:
        ConfigError: It is a folder instead of a file or the reverse, a parent is a file, or the folder is read-only or,
            of a file, does not exist; the message names the flag.
    """
    target = Path(path)
    if target.exists() and target.is_dir() != is_folder:
        given = ("folder", "file") if is_folder else ("file", "folder")
        raise ConfigError(f"{flag} must be a {given[0]}, got the {given[1]} {path}")
    parent = next((path for path in (target, *target.absolute().parents) if path.exists()), target)
    if parent != target and not parent.is_dir():
        raise ConfigError(f"{flag} {path} must be below folders, but {parent} is a file; name another")
    if not (is_folder or makes_parents) and not target.absolute().parent.exists():
        raise ConfigError(f"{flag} {path}: there is no folder {target.parent}")
    folder = parent if parent.is_dir() else parent.parent
    if not os.access(folder, os.W_OK):
        raise ConfigError(f"{flag} {path} cannot be written ({folder} is read-only); use another folder")


def write_atomically(path: Path, write: Callable[[IO[bytes]], Any], size: int | None = None) -> None:
    """Writes a temporary file in the same folder, flushes it to disk, then renames it over the target.

    Args:
        path: Target file; keeps its previous content until the rename.
        write: Writes the content to the given binary file.
        size: Size of the content in bytes, for the error message if the disk is full.

    Raises:
        WriteError: The disk is full, the folder is read-only or similar; the temporary file is removed.
    """
    part = path.with_name(path.name + ".part")
    recorder = None
    try:
        part.unlink(missing_ok=True)  # left by a killed process; a link is removed, not followed
        with open(os.open(part, _NEW_FILE, 0o666), "wb") as file:
            recorder = _ErrorRecorder(file)
            write(recorder)  # type: ignore[arg-type]
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
        _sync_folder(path.parent)
    except BaseException as error:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        cause = recorder.error if recorder and recorder.error else error  # torch.save raises an error of its own
        if isinstance(cause, OSError):
            raise WriteError(_message(path, cause, size)) from error
        raise


def write_text(path: Path, text: str) -> None:
    """Writes a UTF-8 text file atomically; what UTF-8 cannot encode, as in file names, is written as JSON escapes it."""
    write_atomically(path, lambda file: file.write(text.encode("utf-8", "backslashreplace")))


class _ErrorRecorder:
    """A file that keeps the error of a failed write."""

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


def _message(path: Path, error: OSError, size: int | None) -> str:
    message = f"cannot write {path}: {error.strerror or error}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        with contextlib.suppress(OSError):
            message += f" ({_megabytes(size)} needed, " if size is not None else " ("
            message += f"{_megabytes(shutil.disk_usage(path.parent).free)} free in {path.parent})"
    return message + (f"; the previous {path.name} is unchanged" if path.is_file() else "")


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"


def _sync_folder(folder: Path) -> None:
    """Makes a rename durable across a power failure, if the system supports it."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
