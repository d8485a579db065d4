"""Turns errors of a run into messages for the user: one line with the cause and how to fix it."""

from __future__ import annotations

import torch

from ssd.common.errors import ConfigError
from ssd.data import DataError
from ssd.models.detector import BatchSizeError


class TrainingError(RuntimeError):
    """Training cannot continue; the message names the cause and how to fix it."""


class SharedError(TrainingError):
    """An error raised on all processes; rank 0 prints it."""


_EXPECTED = (ConfigError, DataError, TrainingError, BatchSizeError)
_NO_MEMORY = ("DefaultCPUAllocator", "not enough memory", "Cannot allocate memory")
_NO_SHARED_MEMORY = (
    "unable to allocate shared memory",
    "unable to open shared memory",
    "unable to mmap",
    "out of shared memory",  # a data loading worker was killed by a bus error
)


def as_user_error(error: Exception) -> Exception | None:
    """Returns an error with a message for the user, or None for an unexpected one, which needs its traceback."""
    text = str(error)
    if isinstance(error, _EXPECTED):
        return error
    if isinstance(error, torch.OutOfMemoryError):
        return TrainingError(f"GPU out of memory: use a smaller --batch-size, or --amp. {_first_line(text)}")
    if any(pattern in text for pattern in _NO_SHARED_MEMORY):
        return TrainingError(
            "out of shared memory (/dev/shm), which --workers use to pass batches: use fewer --workers or a smaller "
            f"--batch-size, or start docker with --shm-size=1g. {_last_line(text)}"
        )
    if isinstance(error, MemoryError) or any(pattern in text for pattern in _NO_MEMORY):
        return TrainingError(
            f"out of memory: use a smaller --batch-size, a smaller --image-size or fewer --workers. {_last_line(text)}"
        )
    if "DataLoader timed out" in text:
        return TrainingError(
            "timed out waiting for a batch from --workers: the disk, shared memory (docker run --shm-size=1g) or the code "
            f"of the data set may be blocked; --workers 0 shows where. {_first_line(text)}"
        )
    if ("DataLoader worker" in text and "Caught" not in text) or isinstance(error, (ConnectionError, EOFError)):
        return TrainingError(
            "a data loading worker exited, usually because it ran out of memory: use fewer --workers. "
            f"{_first_line(text) or type(error).__name__}"
        )
    return TrainingError(_first_line(text)) if isinstance(error, OSError) else None


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0]


def _last_line(text: str) -> str:
    # Errors in a worker process begin with its traceback.
    return text.strip().rpartition("\n")[2]
