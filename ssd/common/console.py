"""Console handling shared by all programs: encodings, closed pipes, Ctrl-C and program names. Standard library only."""

from __future__ import annotations

import argparse
import functools
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn, ParamSpec, TypeVar

from ssd.common.errors import near_name

_P = ParamSpec("_P")
_R = TypeVar("_R")
CLOSED_PIPE = 141  # exit code after SIGPIPE
INTERRUPTED = 130  # exit code after Ctrl-C


class ArgumentParser(argparse.ArgumentParser):
    """An argument parser that suggests the closest flag for an unknown one, and prints errors as one line.

    The description is printed as it is written. Integers (`type=int`) have at most 32 bits, as no option needs more and
    torch, NumPy and the system take no more. Texts (no `type`) are not empty, as those of unset shell variables are.
    """

    _words: Sequence[str] = ()  # of the command line

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"formatter_class": argparse.RawDescriptionHelpFormatter, **kwargs})
        self.register("type", int, _integer)
        self.register("type", None, _text)

    def add_subparsers(self, **kwargs: Any) -> argparse._SubParsersAction[ArgumentParser]:  # type: ignore[override]
        """Adds commands as argparse does; each parses its own words."""
        commands: argparse._SubParsersAction[ArgumentParser] = super().add_subparsers(**kwargs)
        commands.type = str
        return commands

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parses as argparse does; the words determine the command that unknown flags belong to."""
        self._words = sys.argv[1:] if args is None else list(args)
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        """Prints the message and how to get help, and exits with code 2."""
        found = re.match(r"unrecognized arguments: (--[\w-]+)", message)
        close = near_name(found[1], _flags(self, self._words)) if found else None
        if close:
            message += f" (did you mean {close!r}?)"
        elif message.startswith(("unrecognized arguments", "the following arguments are required")):
            message += f" (see {_chosen(self, self._words).prog} --help)"
        self.exit(2, f"{self.prog}: error: {message}\n")


def _integer(text: str) -> int:
    if re.fullmatch(r"\s*[+-]?\d{10,}\s*", text) and (len(text) > 20 or abs(int(text)) >= 2**31):
        raise argparse.ArgumentTypeError(f"must be an integer below 2147483648, got {_shortened(text)}")
    return int(text)


def _text(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("must not be empty")
    return text


def _shortened(text: str) -> str:
    return text if len(text) <= 40 else f"a number of {len(text)} digits"


def _flags(parser: argparse.ArgumentParser, words: Sequence[str]) -> set[str]:
    """Returns the flags of a parser and of those of its commands that are among the words."""
    flags = {flag for action in parser._actions for flag in action.option_strings}
    return flags.union(*(_flags(command, words) for command in _commands(parser, words)))


def _chosen(parser: argparse.ArgumentParser, words: Sequence[str]) -> argparse.ArgumentParser:
    """Returns the parser of the command that is among the words; the parser itself if there is none."""
    command = next(_commands(parser, words), None)
    return parser if command is None else _chosen(command, words)


def _commands(parser: argparse.ArgumentParser, words: Sequence[str]) -> Iterator[argparse.ArgumentParser]:
    commands = [action.choices for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return (command for choices in commands for name, command in choices.items() if name in words)


def console_program(main: Callable[_P, _R]) -> Callable[_P, _R]:
    """Wraps the main function of a program so that it exits quietly on a closed pipe or Ctrl-C.

    Standard streams may be closed, as those of a daemon are.
    """

    @functools.wraps(main)
    def program(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        _open_closed_streams()
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="replace")  # print "?" for characters that the encoding lacks
        try:
            try:
                return main(*args, **kwargs)
            finally:
                sys.stdout.flush()  # also after sys.exit
        except BrokenPipeError:  # the reader of the pipe, such as `head`, has exited
            _discard_output()
            sys.exit(CLOSED_PIPE)
        except KeyboardInterrupt:
            print("\ninterrupted", file=sys.stderr)
            sys.exit(INTERRUPTED)

    return program


def _open_closed_streams() -> None:
    """Opens os.devnull in place of closed standard streams.

    Python has None for them, and the next file that is opened would get their number, and what libraries write there.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            os.set_inheritable(number, True)
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "w" if number else "r", encoding="utf-8", closefd=False))


def _discard_output() -> None:
    """Redirects stdout to os.devnull so that the flush at exit does not fail."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError):  # not a real file, as in tests
        pass


def program_name(command: str) -> str:
    """Returns the name of a program in usage messages: `ssd train`, or `train.py` if that file was started."""
    return f"{command}.py" if Path(sys.argv[0]).name == f"{command}.py" else f"ssd {command}"


def how_to_run(command: str, processes: int = 1) -> str:
    """Returns the command that starts another program of this project the way this one was started.

    Args:
        command: Name of the program, such as "train".
        processes: Number of processes, started by torchrun if there are several.
    """
    program = _program(command)
    if processes == 1:
        return program
    script = program.removeprefix("python ") if program.startswith("python ") else f"-m {program}"
    return f"torchrun --nproc_per_node={processes} {script}"


def _program(command: str) -> str:
    started, train = Path(sys.argv[0]), Path(__file__).parents[1] / "train.py"
    if started.name in ("ssd", "ssd.exe"):
        return f"ssd {command}"
    is_module = started.parts[-2:] == ("ssd", "__main__.py")
    for file in (started, Path("ssd/train.py")):  # the file that was started, or that of a checkout
        if command == "train" and not is_module and file.is_file() and file.samefile(train):
            return f"python {shlex.quote(str(file))}"
    return f"python -m ssd {command}"


def package_version() -> str:
    """Returns the installed version."""
    from importlib import metadata  # slow to import, and rarely needed

    try:
        return metadata.version("ssd_ops")
    except metadata.PackageNotFoundError:
        return "(not installed)"
