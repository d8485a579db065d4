"""Loaders end although a worker process was killed with a lock that the others wait for, and when the program ends."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from typing import Any

import pytest

from ssd.data.loading.workers import WatchedDataLoader, start_method, start_worker

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="workers are forked on Linux")


def test_loader_ends_although_a_killed_worker_held_a_lock() -> None:
    loader = WatchedDataLoader(
        range(10_000),  # type: ignore[arg-type]
        num_workers=2,
        collate_fn=list,
        worker_init_fn=start_worker,
        multiprocessing_context=start_method(),
    )
    iterator: Any = iter(loader)
    next(iterator)

    def die_with_the_lock() -> None:
        iterator._workers_done_event._cond.acquire()
        os.kill(os.getpid(), signal.SIGKILL)

    process = multiprocessing.get_context("fork").Process(target=die_with_the_lock)
    process.start()
    process.join()
    workers = list(iterator._workers)
    with pytest.raises(RuntimeError, match="DataLoader worker"):
        os.kill(workers[0].pid, signal.SIGKILL)
        for _ in iterator:
            pass
    ending = threading.Thread(target=iterator._shutdown_workers, daemon=True)
    ending.start()
    ending.join(20)
    ended = not ending.is_alive() and not any(worker.is_alive() for worker in workers)
    for worker in workers:
        worker.kill()
    assert ended


_PROGRAM = """
from ssd.data.loading.workers import WatchedDataLoader, start_method, start_worker

loader = WatchedDataLoader(
    range(10_000),
    num_workers=2,
    collate_fn=list,
    worker_init_fn=start_worker,
    multiprocessing_context=start_method(),
    persistent_workers=True,
)
for _ in loader:
    raise SystemExit(3)
"""


def test_program_ends_although_its_loader_is_alive() -> None:
    # As after an error, whose traceback keeps the loader.
    assert subprocess.run([sys.executable, "-c", _PROGRAM], timeout=120).returncode == 3
