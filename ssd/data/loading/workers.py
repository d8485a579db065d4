"""The worker processes of a loader: how they start, how they handle signals, and what happens when a batch is lost."""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import Any

import torch
from torch.utils.data import DataLoader
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

TIMEOUT = 600  # seconds without a batch after which workers count as stuck


class WatchedDataLoader(DataLoader[Any]):
    """A DataLoader that raises an error if its workers are alive but have lost a batch, as with full shared memory.

    DataLoader's own `timeout` does not check for dead workers while it waits.
    """

    def _get_iterator(self) -> Any:
        if not self.num_workers:
            return super()._get_iterator()
        self.check_worker_number_rationality()
        return _WatchedIterator(self)


class _WatchedIterator(_MultiProcessingDataLoaderIter):
    waiting_since: float | None = None

    def _try_get_data(self, *args: Any, **kwargs: Any) -> tuple[bool, Any]:
        found, data = super()._try_get_data(*args, **kwargs)  # type: ignore[no-untyped-call]  # waits for 5 seconds
        if found:
            self.waiting_since = None
        elif self.waiting_since is None:
            self.waiting_since = time.monotonic()
        elif time.monotonic() - self.waiting_since > TIMEOUT:
            raise RuntimeError(f"DataLoader timed out after {TIMEOUT} seconds")
        return found, data


def start_method() -> str | None:
    """Returns how to start worker processes: on Linux by `fork`, which is not Python's default since 3.14.

    A forked worker has imported torch and shares the annotations, neither data set nor transforms need to be picklable,
    and the main program need not check for `__main__`.
    """
    return "fork" if sys.platform == "linux" else None


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
