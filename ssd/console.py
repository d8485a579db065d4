"""What every program does with its console: names in any alphabet are printed, a closed pipe or Ctrl-C ends it quietly."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
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
