"""What a run says of its progress: a bar on a terminal, one line an epoch anywhere, and the same lines in log.txt."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any, TypeVar

from tqdm import tqdm

_T = TypeVar("_T")


def progress_bar(batches: Iterable[_T], is_first: bool, **options: Any) -> Any:
    """Wrap batches in a bar; nothing is drawn where stderr is no terminal, or in processes that are not the first."""
    return tqdm(batches, unit="batch", mininterval=0.5, disable=None if is_first else True, **options)


class TimeLeft:
    """Estimates the time until the end of a run from what its share so far has taken, evaluation included.

    Args:
        steps: of the whole run.
        done: steps that were done before this process started.
    """

    def __init__(self, steps: int, done: int) -> None:
        self.steps, self.done = steps, done
        self.start = time.perf_counter()

    def at(self, step: int) -> str:
        """Return the time left after a step, in words."""
        taken = time.perf_counter() - self.start
        if step >= self.steps:
            return f"{duration(taken)} in all"
        return f"{duration(taken / max(step - self.done, 1) * (self.steps - step))} left"


def duration(seconds: float) -> str:
    """Write a duration with its two largest units."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = [(days, "d"), (hours, "h"), (minutes, "min"), (rest, "s")]
    first = next((i for i, (count, _) in enumerate(parts) if count), 3)
    return " ".join(f"{count} {unit}" for count, unit in parts[first : first + 2])
