"""Runs Python processes forked from one that has imported torch: they start in milliseconds instead of seconds.

`run_python` is like `python ...` in a folder; `run_processes` calls a function in several processes with the environment
that torchrun sets. Tests of the start of a process (imports, environment variables that torch or the dynamic loader reads)
need `subprocess` instead.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# The server has no threads that a fork would lose, and has not imported this project, which tests replace.
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["torch", "torchvision", "matplotlib", "PIL.Image", "yaml"])
_SECONDS = 200  # time limit of a process
_PATIENCE = 5  # seconds between the failure of one process and the end of the others, which may still be starting


@dataclass
class Ended:
    """Exit code and output of a process."""

    code: int
    out: str
    err: str


def run_python(
    *arguments: str, folder: Path, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Runs a script, `-c CODE` or `-m MODULE` with arguments in a folder.

    Args:
        *arguments: command line after `python`.
        folder: working directory.
        environment: all environment variables; None for those of this process.
    """
    with tempfile.TemporaryDirectory() as said:
        given = dict(os.environ if environment is None else environment)
        out, err = _files(Path(said))
        process = _CONTEXT.Process(target=_enter, args=(out, err, given, _interpret, (folder, arguments)))
        process.start()
        process.join(_SECONDS)
        process.kill()
        process.join()
        texts = out.read_text(), err.read_text()
    return subprocess.CompletedProcess(arguments, process.exitcode or 0, *texts)


def run_processes(folder: Path, function: Callable[..., None], *args: Any, size: int = 2) -> list[Ended]:
    """Calls function(*args) in `size` processes with torchrun's environment; ends the others if one fails."""
    folder.mkdir(parents=True, exist_ok=True)
    port = str(free_port())
    started, said = [], []
    for rank in range(size):
        said.append(_files(folder, f"{rank}."))
        ranks = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size)}
        environment = {**os.environ, **ranks, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        started.append(_CONTEXT.Process(target=_enter, args=(*said[-1], environment, function, args)))
        started[-1].start()
    deadline = time.monotonic() + _SECONDS
    while any(p.is_alive() for p in started) and time.monotonic() < deadline:
        time.sleep(0.02)
        if any(p.exitcode for p in started):
            deadline = min(deadline, time.monotonic() + _PATIENCE)
    for process in started:
        process.terminate()
        process.join()
    return [
        Ended(p.exitcode or 0, out.read_text(), err.read_text()) for p, (out, err) in zip(started, said, strict=True)
    ]


def free_port() -> int:
    """Returns an unused TCP port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _files(folder: Path, prefix: str = "") -> tuple[Path, Path]:
    """Creates empty output files: they stay empty if the process ends before it redirects its output."""
    out, err = folder / f"{prefix}out", folder / f"{prefix}err"
    out.write_text(""), err.write_text("")
    return out, err


def _enter(
    out: Path, err: Path, environment: dict[str, str], function: Callable[..., None], args: tuple[Any, ...]
) -> None:
    for number, file in ((1, out), (2, err)):
        os.dup2(os.open(file, os.O_WRONLY), number)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", closefd=False) for number in (1, 2))
    os.environ.clear()
    os.environ.update(environment)
    import torch

    torch.set_num_threads(1)
    try:
        function(*args)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def _interpret(folder: Path, arguments: tuple[str, ...]) -> None:
    os.chdir(folder)
    what, *rest = arguments
    first = str((folder / what).parent) if what not in ("-c", "-m") else ""
    start = sys.path.index(str(Path(os.__file__).parent))  # entries before the standard library are those of the tests
    sys.path[:start] = [first, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    sys.argv = [what, *(rest if first else rest[1:])]
    if first:
        runpy.run_path(what, run_name="__main__")
    elif what == "-m":
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    else:
        exec(compile(rest[0], "<string>", "exec"), {"__name__": "__main__"})
