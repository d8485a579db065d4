"""Lock of a run folder: one process trains in it at a time."""

from __future__ import annotations

import errno
import fcntl
from pathlib import Path
from typing import IO

from ssd.common.errors import ConfigError


def lock_folder(folder: Path) -> IO[bytes] | None:
    """Reserves a folder for this process; the file returned holds the lock until it is closed or the process ends.

    Processes that this one forks do not hold it. None: the file system has no locks.

    Raises:
        ConfigError: Another process has reserved the folder.
    """
    file = open(folder / ".lock", "ab")
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        if error.errno in (errno.EACCES, errno.EAGAIN):
            raise ConfigError(
                f"another process is training in {folder}; use another --output-dir, or wait for it"
            ) from None
        return None
    return file
