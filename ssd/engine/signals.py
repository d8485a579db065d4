"""Ctrl-C and SIGTERM in training: the step at hand is finished and saved before the process ends."""

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

GO_ON, SAVE, STOP = range(3)  # what the processes agree on; the highest one asked for wins


class Interrupted(KeyboardInterrupt):
    """Training was asked to end.

    Not an Exception, so that nothing which survives errors survives it.

    Args:
        signum: the signal; the exit code is 128 + its number, as a shell reports it.
        message: what is said at the end.
    """

    def __init__(self, signum: int, message: str = "") -> None:
        super().__init__(message)
        self.code = 128 + signum


class Interruption:
    """Listens for SIGINT and SIGTERM while training runs.

    Inside `deferred` a signal is only noted, for the loop to ask for between two steps; anywhere else it raises
    Interrupted at once. A second signal ends the process at once, wherever it is.
    """

    def __init__(self) -> None:
        self.signum: int | None = None
        self._is_deferred = False
        self._pid = os.getpid()

    @contextlib.contextmanager
    def listening(self) -> Iterator[Interruption]:
        """Handle both signals in this block; a no-op outside of the main thread, where Python allows no handlers."""
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
        """Only note signals in this block."""
        self._is_deferred = True
        try:
            yield
        finally:
            self._is_deferred = False

    def _handle(self, signum: int, _: FrameType | None) -> None:
        if os.getpid() != self._pid:
            return  # a worker process of a loader, forked with this handler; its parent tells it when to end
        if self.signum is not None:
            signal.signal(signum, signal.SIG_DFL)
            os.kill(os.getpid(), signum)
            return
        self.signum = signum
        if not self._is_deferred:
            raise Interrupted(signum)
        name = signal.Signals(signum).name
        with contextlib.suppress(OSError, RuntimeError):  # a closed pipe, or the signal came amid another print
            print(f"\n{name}: saving after this step; a second one ends at once", file=sys.stderr, flush=True)


class Agreement:
    """Lets all processes save or stop after the same step, though each hears of it at another.

    What they ask for is summed up in the background of the next step, so no process waits for another.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self._pending: tuple[Any, torch.Tensor] | None = None

    def reach(self, wish: int) -> int:
        """Return what to do now: alone, what is wished for; with others, the highest wish of the step before."""
        if self.world.size == 1:
            return wish
        agreed = self._result()
        values = torch.tensor(wish)
        self._pending = dist.all_reduce(values, dist.ReduceOp.MAX, async_op=True), values
        return agreed

    def settle(self, wish: int) -> int:
        """Return the highest wish of now or before, once all processes have told theirs, as at the end of an epoch."""
        before, self._pending = self._result(), None
        return max(before, *self.world.gather(wish), wish)

    def _result(self) -> int:
        if self._pending is None:
            return GO_ON
        work, values = self._pending
        work.wait()
        return int(values)
