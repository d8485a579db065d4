"""Ctrl-C and SIGTERM during training: the current step is completed and saved before the process exits."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist

from ssd.engine.distributed import World

CONTINUE, SAVE, STOP = range(3)  # actions that the processes agree on; the highest request wins


class Interrupted(KeyboardInterrupt):
    """Training was interrupted by a signal.

    Derives from KeyboardInterrupt so that `except Exception` does not catch it.

    Args:
        signum: Number of the signal; the exit code is 128 + signum, as in a shell.
        message: Message to print on exit.
    """

    def __init__(self, signum: int, message: str = "") -> None:
        super().__init__(message)
        self.code = 128 + signum


class Interruption:
    """Listens for SIGINT and SIGTERM while training runs.

    Inside `deferred` a signal is only recorded, and the loop checks for it between steps; anywhere else it raises
    Interrupted. A second signal terminates the process immediately.
    """

    def __init__(self) -> None:
        self.signum: int | None = None
        self._is_deferred = False
        self._pid = os.getpid()

    @contextlib.contextmanager
    def listening(self) -> Iterator[Interruption]:
        """Installs the handlers for a block; does nothing outside the main thread, where Python does not allow it."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        before = {number: signal.signal(number, self._handle) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """Only records signals in a block."""
        self._is_deferred = True
        try:
            yield
        finally:
            self._is_deferred = False

    def _handle(self, signum: int, _: FrameType | None) -> None:
        if os.getpid() != self._pid:
            return  # a data loading worker inherited this handler; its parent process stops it
        if self.signum is not None:
            signal.signal(signum, signal.SIG_DFL)
            os.kill(os.getpid(), signum)
            return
        self.signum = signum
        if not self._is_deferred:
            raise Interrupted(signum)
        name = signal.Signals(signum).name
        with contextlib.suppress(OSError, RuntimeError):  # a closed pipe, or the signal interrupted another print
            print(f"\n{name}: saving after this step; repeat it to exit immediately", file=sys.stderr, flush=True)


class Agreement:
    """Makes all processes save or stop after the same step, although each receives its signal at a different time.

    The requests are reduced in the background of the next step, so no process waits for another.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self._pending: tuple[Any, torch.Tensor] | None = None

    def reduce_async(self, request: int) -> int:
        """Returns the action for this step: the highest request of the previous step; `request` in a world of size 1."""
        if self.world.size == 1:
            return request
        agreed = self._result()
        values = torch.tensor(request)
        self._pending = dist.all_reduce(values, dist.ReduceOp.MAX, async_op=True), values
        return agreed

    def reduce(self, request: int) -> int:
        """Returns the highest pending or current request of all processes; waits for them, as at the end of an epoch."""
        pending, self._pending = self._result(), None
        requests: list[int] = self.world.gather(request)
        return max(pending, *requests, request)

    def _result(self) -> int:
        if self._pending is None:
            return CONTINUE
        work, values = self._pending
        work.wait()
        return int(values)
