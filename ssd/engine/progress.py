"""Progress of a run: a bar on a terminal, and the estimated time left."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any, TypeVar

from tqdm import tqdm

_T = TypeVar("_T")


def progress_bar(batches: Iterable[_T], is_first: bool, **options: Any) -> Any:
    """Wraps batches in a progress bar, which is hidden if stderr is not a terminal or this is not rank 0."""
    return tqdm(batches, unit="batch", mininterval=0.5, disable=None if is_first else True, **options)


class TimeLeft:
    """Estimates the time left in a run from the time taken so far, including evaluation.

    Args:
        steps: Number of steps of the whole run.
        done: Number of steps done before this process started.
    """

    def __init__(self, steps: int, done: int) -> None:
        self.steps, self.done = steps, done
        self.start = time.perf_counter()

    def at(self, step: int) -> str:
        """Returns the estimated time left after a step, as text."""
        taken = time.perf_counter() - self.start
        if step >= self.steps:
            return f"{duration(taken)} in all"
        return f"{duration(taken / max(step - self.done, 1) * (self.steps - step))} left"


def duration(seconds: float) -> str:
    """Formats a duration with its two largest units."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = [(days, "d"), (hours, "h"), (minutes, "min"), (rest, "s")]
    first = next((i for i, (count, _) in enumerate(parts) if count), 3)
    return " ".join(f"{count} {unit}" for count, unit in parts[first : first + 2])
