"""Fits the number of workers to the shared memory for their batches, of which containers often have only 64 MB."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

PREFETCHED = 2  # batches that each worker of a DataLoader prepares ahead
_USABLE = 0.9  # fraction of the free memory to use: sockets, semaphores and other programs need some
_FOLDER = Path("/dev/shm")


def fitting_workers(workers: int, batch_bytes: int, folder: Path = _FOLDER) -> tuple[int, str | None]:
    """Returns the number of workers whose batches fit into shared memory; batches do not depend on the number.

    Args:
        workers: Number of workers requested by each process of this machine.
        batch_bytes: Size of one batch.
        folder: Mount point of shared memory; systems without it have no such limit.

    Returns:
        The number of workers to use, and a message if it is smaller, else None.
    """
    if not workers or (sys.platform != "linux" and not folder.is_dir()):
        return workers, None
    if not os.access(folder, os.W_OK):
        return 0, (
            f"shared memory ({folder}) is missing or cannot be written to, so this process itself, in place of {workers} "
            f"--workers, loads the images; mount -t tmpfs tmpfs {folder}, or mount -o remount,rw {folder}, makes it usable"
        )
    free = shutil.disk_usage(folder).free
    available = free * _USABLE / int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    fitting = int((available / max(batch_bytes, 1) - 1) // PREFETCHED)  # one more batch is in use
    if fitting >= workers:
        return workers, None
    fitting = max(fitting, 0)
    where = f"{fitting} of {workers} --workers" if fitting else f"this process itself, in place of {workers} --workers,"
    return fitting, (
        f"shared memory ({folder}) has {free / 1e6:.0f} MB free, and each worker needs "
        f"{PREFETCHED * batch_bytes / 1e6:.0f} MB for batches of this size, so {where} load the images; docker run "
        "--shm-size=1g gives more"
    )
