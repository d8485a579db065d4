"""Saves the results of a program as they are measured: being stopped, or a part that fails, costs no finished part."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from ssd.common.atomic_write import write_text


def save(path: Path | None, report: Any) -> None:
    """Writes a report (dicts, lists, dataclasses) as JSON, atomically; no file if `path` is None."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(report, indent=1, default=_plain) + "\n")


def _plain(value: Any) -> Any:
    return dataclasses.asdict(value) if dataclasses.is_dataclass(value) else str(value)


@contextlib.contextmanager
def saving(path: Path | None, report: Any) -> Iterator[Callable[[str], AbstractContextManager[None]]]:
    """Saves a report at once, so that a path without permission fails early, and after every part measured inside.

    Yields:
        A context for one part, by its name. An error inside, as for lack of memory, is printed and ends only that part;
        the program then exits with 1 after the last one.
    """
    failed: list[str] = []

    @contextlib.contextmanager
    def measuring(name: str) -> Iterator[None]:
        try:
            yield
        except SystemExit as error:
            failed.append(str(error.code))
            print(f"failed: {failed[-1]}", file=sys.stderr, flush=True)
        except Exception as error:
            traceback.print_exc()
            failed.append(f"{name}: {type(error).__name__}: {str(error).partition(chr(10))[0]}")
        save(path, report)

    save(path, report)
    yield measuring
    if failed:
        sys.exit(f"{len(failed)} not measured: {'; '.join(failed)}")
