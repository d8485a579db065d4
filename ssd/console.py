"""What every program does with its console: names in any alphabet are printed, a closed pipe or Ctrl-C ends it quietly.

Standard library only.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec, TypeVar

_P = ParamSpec("_P")
_R = TypeVar("_R")
CLOSED_PIPE = 141  # exit code of a program that SIGPIPE ended
INTERRUPTED = 130  # and of one that Ctrl-C ended


def console_program(main: Callable[_P, _R]) -> Callable[_P, _R]:
    """Make the main function of a program robust against the console that it prints to."""

    @functools.wraps(main)
    def program(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="replace")  # a class name that the encoding lacks is shown with "?"
        try:
            try:
                return main(*args, **kwargs)
            finally:
                sys.stdout.flush()  # after sys.exit, too
        except BrokenPipeError:  # the reader of a pipe, such as `head`, has seen enough
            _discard_output()
            sys.exit(CLOSED_PIPE)
        except KeyboardInterrupt:
            print("\ninterrupted", file=sys.stderr)
            sys.exit(INTERRUPTED)

    return program


def _discard_output() -> None:
    """Point stdout at nothing, so that the flush at exit does not complain."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError):  # no real file, as under a test
        pass


def program_name(command: str) -> str:
    """Returns what a usage line calls a program: `ssd train`, or train.py where that file was started."""
    return f"ssd {command}" if _is_dispatched() else Path(sys.argv[0]).name


def how_to_run(command: str) -> str:
    """Returns how to start another program of this project, in the way in which this one was started."""
    if not _is_dispatched():
        return f"python ssd/{command}.py"
    return f"{'ssd' if Path(sys.argv[0]).stem == 'ssd' else 'python -m ssd'} {command}"


def _is_dispatched() -> bool:
    # by the console script `ssd` (ssd.exe) or by `python -m ssd`
    started = Path(sys.argv[0])
    return started.name in ("ssd", "ssd.exe") or started.parts[-2:] == ("ssd", "__main__.py")


def package_version() -> str:
    """Returns the version that is installed."""
    from importlib import metadata  # takes a tenth of the time in which --help shall answer

    try:
        return metadata.version("ssd_ops")
    except metadata.PackageNotFoundError:
        return "(not installed)"
