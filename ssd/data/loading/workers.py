"""The worker processes of a loader: how they start, how they handle signals, and what happens when a batch is lost."""

from __future__ import annotations

import atexit
import mmap
import os
import signal
import sys
import time
import weakref
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader
from torch.utils.data._utils.signal_handling import _remove_worker_pids
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

TIMEOUT = 600  # seconds without a batch after which workers count as stuck


class WatchedDataLoader(DataLoader[Any]):
    """A DataLoader that raises an error if its workers are alive but have lost a batch, as with full shared memory.

    DataLoader's own `timeout` does not check for dead workers while it waits.
    """

    def dead_workers(self) -> list[int]:
        """Returns the numbers of the worker processes that have failed or were killed."""
        workers = getattr(self._iterator, "_workers", ())
        return [number for number, worker in enumerate(workers) if worker.exitcode]

    def _get_iterator(self) -> Any:
        if not self.num_workers:
            return super()._get_iterator()
        self.check_worker_number_rationality()
        iterator = _WatchedIterator(self)
        # The traceback of an error that ends the program keeps the iterator. Python would send its workers a SIGTERM,
        # the first of which they ignore, and wait for them.
        atexit.register(_kill_at_exit, weakref.ref(iterator))
        return iterator


class _WatchedIterator(_MultiProcessingDataLoaderIter):
    waiting_since: float | None = None

    def _try_get_data(self, *args: Any, **kwargs: Any) -> tuple[bool, Any]:
        found, data = super()._try_get_data(*args, **kwargs)  # type: ignore[no-untyped-call]  # waits for 5 seconds
        if found:
            self.waiting_since = None
        elif self.waiting_since is None:
            self.waiting_since = time.monotonic()
        elif time.monotonic() - self.waiting_since > TIMEOUT:
            self._kill_workers()
            raise RuntimeError(f"DataLoader timed out after {TIMEOUT} seconds")
        return found, data

    def _mark_worker_as_unavailable(self, worker_id: int, shutdown: bool = False) -> None:
        if self._workers[worker_id].exitcode:
            # DataLoader would send it a message, and wait for a lock that it may have held.
            self._workers_status[worker_id] = False
        else:
            super()._mark_worker_as_unavailable(worker_id, shutdown)

    def _shutdown_workers(self) -> None:
        if any(worker.exitcode for worker in getattr(self, "_workers", ())):
            self._kill_workers()
        super()._shutdown_workers()

    def _kill_workers(self) -> None:
        """Ends the workers without waiting for locks, which a worker that was killed or is stuck may hold."""
        if self._shutdown:
            return
        self._shutdown = True
        _remove_worker_pids(id(self))  # otherwise each worker that is killed here counts as a fault
        self._worker_pids_set = False
        if hasattr(self, "_pin_memory_thread"):
            self._pin_memory_thread_done_event.set()
        for worker in self._workers:
            worker.kill()
            worker.join()
        for queue in self._index_queues:
            queue.cancel_join_thread()
            queue.close()


def _kill_at_exit(reference: weakref.ref[_WatchedIterator]) -> None:
    if (iterator := reference()) is not None:
        iterator._kill_workers()


def start_method() -> str | None:
    """Returns how to start worker processes: on Linux by `fork`, which is not Python's default since 3.14.

    A forked worker has imported torch and shares the annotations, neither data set nor transforms need to be picklable,
    and the main program need not check for `__main__`.
    """
    return "fork" if sys.platform == "linux" else None


def shared_integers(count: int) -> np.ndarray | None:
    """Returns int64 `[count]` of -1 that forked workers share with this process; None where workers are not forked."""
    if not count or start_method() != "fork":
        return None
    values: np.ndarray = np.frombuffer(mmap.mmap(-1, 8 * count), np.int64)
    values[:] = -1
    return values


def start_worker(_: int) -> None:
    """Sets up a worker process.

    Ctrl-C and a scheduler's SIGTERM reach the whole process group. The training process finishes its step with the
    workers and then ends them: by a message, or, if they are stuck, by the second of its own signals.
    """
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _ignore_once)
    sys.excepthook = _print_unless_disconnected


def _ignore_once(signum: int, _: Any) -> None:
    signal.signal(signum, lambda *_: os._exit(128 + signum))


def _print_unless_disconnected(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    """Prints a traceback, unless a thread that hands over tensors has only lost the training process, which ended."""
    if not issubclass(kind, (ConnectionError, EOFError)):
        sys.__excepthook__(kind, error, trace)
