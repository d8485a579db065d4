"""Parts: the results of each process of `ssd predict`, one line of JSON per image, appended as they are found.

A part is named by the rank of its process and the number of processes. A line that a killed process left incomplete is
not counted. So a stopped command continues with the images that no part has, also with another number of processes.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import heapq
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from ssd.common.atomic_write import write_text
from ssd.common.errors import DataError

_FOLDER = "parts"
_SETTINGS = "settings.json"


class Part:
    """The part of one process, opened to append to it.

    Args:
        folder: Output folder of the command.
        rank: Rank of this process.
        size: Number of processes.
        settings: Settings that the results depend on; recorded by the first process.

    Raises:
        DataError: The folder has parts of other settings, or another process is writing this part.
    """

    def __init__(self, folder: Path, rank: int, size: int, settings: Mapping[str, Any]) -> None:
        self.folder = folder
        self.size = size
        (folder / _FOLDER).mkdir(parents=True, exist_ok=True)
        self.path = folder / _FOLDER / f"part-{rank:05d}-of-{size:05d}.jsonl"
        self._check(settings)
        if rank == 0:
            write_text(folder / _FOLDER / _SETTINGS, json.dumps(settings, indent=1) + "\n")
        self._done = self.path.with_suffix(".done")
        self._done.unlink(missing_ok=True)
        self._file = open(self.path, "a+b")
        if not _lock(self._file, wait=False):
            self._file.close()
            raise DataError(f"another process is writing {self.path}; use another --output-dir, or wait for it")
        self._drop_incomplete_line()

    def _check(self, settings: Mapping[str, Any]) -> None:
        try:
            recorded = json.loads((self.folder / _FOLDER / _SETTINGS).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return
        for name, value in json.loads(json.dumps(settings)).items():
            if recorded.get(name) != value:
                raise DataError(
                    f"{self.folder} has results with {name} {recorded.get(name)}, not {value}; use another --output-dir"
                )

    def _drop_incomplete_line(self) -> None:
        end = self._file.seek(0, 2)
        while end:
            start = max(0, end - 65536)
            self._file.seek(start)
            newline = self._file.read(end - start).rfind(b"\n")
            end = start + newline + 1 if newline >= 0 else start
            if newline >= 0:
                break
        self._file.truncate(end)

    def add(self, number: int, entry: Mapping[str, Any]) -> None:
        """Appends the entry of an image or frame; `number` is the position of its file in the list of sources."""
        self._file.write(json.dumps({"number": number, **entry}).encode() + b"\n")
        self._file.flush()

    def end(self, number: int, file: str) -> None:
        """Records that a video or tar file has been processed to its end; else a video is restarted on resuming."""
        self.add(number, {"file": file, "end": True})

    def finish(self, failed: int) -> int | None:
        """Records that this process has finished its sources, and closes the part.

        Args:
            failed: Number of its images that could not be read or written.

        Returns:
            For the last process to finish, the number of failed images of all processes, else None.
        """
        self.close()
        with open(self.folder / _FOLDER / ".lock", "ab") as lock:
            _lock(lock, wait=True)  # so that exactly one process finds all others done
            self._done.write_text(f"{failed}\n")
            done = list((self.folder / _FOLDER).glob(f"part-*-of-{self.size:05d}.done"))
            return sum(int(file.read_text() or 0) for file in done) if len(done) == self.size else None

    def close(self) -> None:
        """Closes the part and releases it."""
        self._file.close()


def finished_files(folder: Path) -> set[str]:
    """Returns the images, and the videos and tar files processed to their end, that parts of an output folder have."""
    finished = set()
    for file in _part_files(folder):
        for record in _records(file):
            if "frame" not in record:
                finished.add(str(record["file"]))
    return finished


def entries(folder: Path) -> Iterator[dict[str, Any]]:
    """Yields the entries of all parts in the order of their sources, each image and frame once."""
    seen: set[bytes] = set()
    parts = [_records(file) for file in _part_files(folder)]
    for record in heapq.merge(*parts, key=lambda record: int(record["number"])):
        key = f"{record.get('frame')} {record['file']}".encode(errors="surrogatepass")
        digest = hashlib.blake2b(key, digest_size=8).digest()  # memory for millions of images
        if "end" not in record and digest not in seen:
            seen.add(digest)
            del record["number"]
            yield record


def drawings(folder: Path) -> set[str]:
    """Returns the names of the images and videos that a command drew into an output folder.

    Raises:
        ValueError: Its detections.json is not of this program.
    """
    file = folder / "detections.json"
    try:
        listed = json.loads(file.read_text(encoding="utf-8")) if file.exists() else []
        return {str(entry["picture"]) for entry in [*listed, *entries(folder)] if "picture" in entry}
    except (OSError, TypeError, KeyError, RecursionError) as error:
        raise ValueError(f"{file} cannot be read") from error


def has_parts(folder: Path) -> bool:
    """Returns whether an output folder has parts."""
    return (folder / _FOLDER / _SETTINGS).is_file() or any(_part_files(folder))


def remove_parts(folder: Path) -> None:
    """Removes the parts from an output folder."""
    if has_parts(folder):
        shutil.rmtree(folder / _FOLDER)


def _part_files(folder: Path) -> list[Path]:
    return sorted((folder / _FOLDER).glob("part-*-of-*.jsonl"))


def _records(file: Path) -> Iterator[dict[str, Any]]:
    with open(file, "rb") as lines:
        for line in lines:
            with contextlib.suppress(ValueError):  # the last line of a killed process
                record = json.loads(line)
                if isinstance(record, dict) and "number" in record and "file" in record:
                    yield record


def _lock(file: IO[bytes], *, wait: bool) -> bool:
    # Whether this process has the lock now; a file system without locks has none that another process could hold.
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError as error:
        return error.errno not in (errno.EACCES, errno.EAGAIN)
    return True
