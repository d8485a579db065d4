"""Measures how long training waits for its data, so that a run can say which side is too slow."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

import torch

_T = TypeVar("_T")


class DataWait:
    """Measures the time between the steps of an epoch in which the next batch is not ready.

    A GPU runs asynchronously, so only the part of the host's wait in which the GPU has nothing to do counts.

    Args:
        device: Device of the steps, which are launched on its current stream.
    """

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._waits: list[tuple[float, torch.cuda.Event | None, torch.cuda.Event | None]] = []

    def timed(self, batches: Iterable[_T]) -> Iterator[_T]:
        """Yields the batches; the first one, for which the worker processes start, is not measured."""
        iterator, is_first = iter(batches), True
        while True:
            end_of_step, start = self._event(), time.perf_counter()
            try:
                batch = next(iterator)
            except StopIteration:
                return
            if not is_first:
                self._waits.append((time.perf_counter() - start, end_of_step, self._event()))
            is_first = False
            yield batch

    def take(self) -> float:
        """Returns the seconds since the last call; the device must have been synchronized."""
        waits, self._waits = self._waits, []
        return sum(
            seconds if end is None or start is None else min(seconds, end.elapsed_time(start) / 1e3)
            for seconds, end, start in waits
        )

    def _event(self) -> torch.cuda.Event | None:
        if not self._on_gpu:
            return None
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event
