"""Errors of a run as a user needs them: one line with the cause and the remedy, where the original words lack it."""

from __future__ import annotations

import torch

from ssd.data import DataError
from ssd.errors import ConfigError
from ssd.models.detector import BatchSizeError


class TrainingError(RuntimeError):
    """Training cannot go on; the message says why and what to try."""


class SharedError(TrainingError):
    """An error that every process knows of; the first one tells it."""


_EXPECTED = (ConfigError, DataError, TrainingError, BatchSizeError)
_NO_MEMORY = ("DefaultCPUAllocator", "not enough memory", "Cannot allocate memory")
_NO_SHARED_MEMORY = (
    "unable to allocate shared memory",
    "unable to open shared memory",
    "unable to mmap",
    "out of shared memory",  # of a loader's worker that a bus error has ended
)


def plain(error: Exception) -> Exception | None:
    """The error as a user needs it, where the original words leave out what to do; None for one that nobody expected."""
    text = str(error)
    if isinstance(error, _EXPECTED):
        return error
    if isinstance(error, torch.OutOfMemoryError):
        return TrainingError(f"the GPU's memory is full: a smaller --batch-size or --amp needs less. {_first(text)}")
    if any(words in text for words in _NO_SHARED_MEMORY):
        return TrainingError(
            "shared memory (/dev/shm), which --workers hand batches over in, is full: fewer --workers or a smaller "
            f"--batch-size need less, docker run --shm-size=1g gives more. {_last(text)}"
        )
    if isinstance(error, MemoryError) or any(words in text for words in _NO_MEMORY):
        return TrainingError(
            "the memory of this machine is full: a smaller --batch-size or --image-size, or fewer --workers need less. "
            f"{_last(text)}"
        )
    if "DataLoader timed out" in text:
        return TrainingError(
            "no batch has come from the --workers for minutes: they are stuck on the disk, on shared memory (docker run "
            f"--shm-size=1g) or in the data set's own code; --workers 0 shows where. {_first(text)}"
        )
    if ("DataLoader worker" in text and "Caught" not in text) or isinstance(error, (ConnectionError, EOFError)):
        return TrainingError(
            "a process that loads images ended, mostly for lack of memory: fewer --workers need less. "
            f"{_first(text) or type(error).__name__}"
        )
    return TrainingError(_first(text)) if isinstance(error, OSError) else None


def _first(text: str) -> str:
    return text.strip().partition("\n")[0]


def _last(text: str) -> str:
    """The last line: of an error in a worker process, which is behind its traceback."""
    return text.strip().rpartition("\n")[2]
