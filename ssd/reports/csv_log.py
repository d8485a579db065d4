"""Tables of a run as CSV files that survive a kill in the middle of a row."""

from __future__ import annotations

import contextlib
import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ssd.common.atomic_write import write_text


class CsvLog:
    """Appends rows to a CSV file; the first row determines the columns.

    Args:
        path: The file.
        writes: False on ranks other than 0.
        also: Called with the name of the table and each row that is added.
    """

    def __init__(
        self, path: Path, writes: bool = True, also: Callable[[str, dict[str, Any]], None] | None = None
    ) -> None:
        self.path = path
        self.also = also
        self.writes = writes
        self.has_failed = False

    def add(self, row: dict[str, Any]) -> None:
        """Appends a row, with a header if the file is new; a write error is reported once and does not end the run."""
        if not self.writes:
            return
        if self.also is not None:
            self.also(self.path.stem, row)
        try:
            is_new = not self.path.exists()
            with self.path.open("a", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, fieldnames=list(row))
                if is_new:
                    writer.writeheader()
                writer.writerow({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()})
        except OSError as error:
            if not self.has_failed:
                print(f"warning: cannot write {self.path}: {error.strerror or error}; its rows are lost", flush=True)
            self.has_failed = True

    def rows(self) -> list[dict[str, float]]:
        """Returns all rows as numbers, without incomplete ones, such as after a kill."""
        return [numbers for _, numbers in self._rows()]

    def drop(self, is_lost: Callable[[dict[str, float]], bool]) -> None:
        """Removes the rows for which a predicate is true."""
        if not self.writes or not self.path.exists():
            return
        header = self.path.read_text(encoding="utf-8", errors="replace").splitlines()[:1]
        try:
            kept = [line for line, numbers in self._rows() if not is_lost(numbers)]
        except KeyError as error:
            aside = self.path.replace(self.path.with_name(f"{self.path.name}.damaged"))
            print(f"warning: {self.path} has no column {error}; renamed to {aside.name}; new rows go into a new file")
            return
        write_text(self.path, "".join(f"{line}\r\n" for line in [*header, *kept]))

    def _rows(self) -> list[tuple[str, dict[str, float]]]:
        if not self.path.exists():
            return []
        lines = self.path.read_text(encoding="utf-8", errors="replace").splitlines()
        found = []
        for line in lines[1:]:
            with contextlib.suppress(ValueError, csv.Error):
                header, row = csv.reader((lines[0], line))
                found.append((line, dict(zip(header, map(float, row), strict=True))))
        return found
