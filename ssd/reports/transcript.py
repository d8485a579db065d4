"""The log of a run: everything that it prints, also with --quiet, goes into log.txt."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO


class Transcript:
    """Replaces standard output and copies it into a file.

    Args:
        path: File to append to.
        writes: False on ranks other than 0.
    """

    encoding = "utf-8"

    def __init__(self, path: Path, writes: bool = True) -> None:
        self.path = path
        self.writes = writes
        self.quiet = False
        self._stream: TextIO = sys.stdout
        self._waiting: list[str] = []  # printed, but not in the file yet
        self._is_started = False

    def start(self, header: str) -> None:
        """Appends a header and what was printed before; from here on the folder belongs to this run."""
        self._waiting.insert(0, as_utf8(header) + "\n")
        self._is_started = True
        self.flush()

    @contextlib.contextmanager
    def recording(self, quiet: bool) -> Iterator[None]:
        """Replaces standard output in a block; with `quiet` only warnings are printed."""
        if not self.writes:
            yield
            return
        self._stream, self.quiet = sys.stdout, quiet
        with contextlib.redirect_stdout(self):
            try:
                yield
            finally:
                self.flush()

    def write(self, text: str) -> int:
        """Prints a string and keeps it for the file."""
        text = as_utf8(text)
        self._waiting.append(text)
        if not self.quiet or text.startswith("warning: "):
            self._stream.write(text if not self.quiet else text.rstrip("\n") + "\n")
        return len(text)

    def note(self, text: str) -> None:
        """Writes a line into the file only."""
        self._waiting.append(as_utf8(text) + "\n")
        self.flush()

    def flush(self) -> None:
        """Writes everything out; a full disk does not end the run."""
        self._stream.flush()
        if self._is_started and self._waiting:
            with contextlib.suppress(OSError), self.path.open("a", encoding="utf-8") as file:
                file.write("".join(self._waiting))
            self._waiting.clear()

    def isatty(self) -> bool:
        """Returns whether a person reads the output as it is printed."""
        return not self.quiet and self._stream.isatty()

    def fileno(self) -> int:
        """Returns the file descriptor of the standard output behind it."""
        return self._stream.fileno()


def as_utf8(text: str) -> str:
    """Returns a string with escapes in place of what UTF-8 cannot encode, as in names of files with other encodings."""
    return text.encode("utf-8", errors="backslashreplace").decode("utf-8")
