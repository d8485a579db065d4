"""Runs a function in several processes that find each other as those of torchrun do, and collects what they say."""

from __future__ import annotations

import multiprocessing
import os
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Forked from a process that has imported torch but computed nothing: each starts in a moment, and no thread is lost.
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["ssd.training"])


@dataclass
class Ended:
    """How a process ended."""

    code: int
    out: str
    err: str


def run_processes(folder: Path, function: Callable[..., None], *args: Any, size: int = 2) -> list[Ended]:
    """Call function(*args) in `size` processes with torchrun's environment; once one has failed, end the others."""
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    started = [_CONTEXT.Process(target=_enter, args=(folder, rank, size, port, function, args)) for rank in range(size)]
    for process in started:
        process.start()
    deadline = time.monotonic() + 120
    while any(p.is_alive() for p in started) and not any(p.exitcode for p in started) and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.3 if any(p.exitcode for p in started) else 0)  # as torchrun, which looks from time to time
    for process in started:
        process.terminate()
        process.join()
    texts = [[(folder / f"{rank}.{name}").read_text() for name in ("out", "err")] for rank in range(size)]
    return [Ended(p.exitcode or 0, *text) for p, text in zip(started, texts, strict=True)]


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _enter(folder: Path, rank: int, size: int, port: int, function: Callable[..., None], args: Any) -> None:
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(folder / f"{rank}.{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", closefd=False) for number in (1, 2))
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(size),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )
    import torch

    torch.set_num_threads(1)
    try:
        function(*args)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
