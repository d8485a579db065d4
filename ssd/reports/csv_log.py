"""Tables of a run as CSV files that survive a kill in the middle of a row."""

from __future__ import annotations

import contextlib
import csv
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ssd.common.atomic_write import write_text


class CsvLog:
    """Appends rows to a CSV file; a row with other columns than those before adds its columns.

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
            columns = self._columns_for(row)
            with self.path.open("a", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, fieldnames=columns)
                writer.writerow({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()})
        except OSError as error:
            if not self.has_failed:
                print(f"warning: cannot write {self.path}: {error.strerror or error}; its rows are lost", flush=True)
            self.has_failed = True

    def _columns_for(self, row: dict[str, Any]) -> list[str]:
        """Returns the columns of the file, after adding those that only the row has."""
        columns: list[str] = []
        with contextlib.suppress(FileNotFoundError, csv.Error, StopIteration):
            with self.path.open(newline="", encoding="utf-8", errors="replace") as file:
                columns = next(csv.reader(file))
        if added := [name for name in row if name not in columns]:
            rows = [line + "," * len(added) for line, _ in self._rows()]
            columns += added
            header = io.StringIO()
            csv.writer(header).writerow(columns)
            write_text(self.path, header.getvalue() + "".join(f"{line}\r\n" for line in rows))
        return columns

    def rows(self) -> list[dict[str, float]]:
        """Returns all rows as numbers, without empty cells and without incomplete rows, such as after a kill."""
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
        text = self.path.read_text(encoding="utf-8", errors="replace")
        lines = text.splitlines()
        found = []
        for line in lines[1:] if text.endswith("\n") else lines[1:-1]:
            with contextlib.suppress(ValueError, csv.Error):
                header, row = csv.reader((lines[0], line))
                cells = zip(header, row, strict=True)
                found.append((line, {name: float(cell) for name, cell in cells if cell}))
        return found
