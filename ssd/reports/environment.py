"""What a run ran on: versions, device, compiled kernels and commit."""

from __future__ import annotations

import contextlib
import platform
import subprocess
import sys
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy
import torch

import ssd_ops
from ssd.common.packages import is_installed

_SOURCES = Path(__file__).resolve().parents[2]


def environment_line() -> str:
    """Returns the versions and the device, as text."""
    device = f"CUDA {torch.version.cuda}, {torch.cuda.get_device_name()}" if torch.cuda.is_available() else "no GPU"
    ops = ssd_ops.build_info()["backend"]
    return f"Python {platform.python_version()}, torch {torch.__version__}, ssd_ops {ops}, {device}, {platform.node()}"


def environment(processes: int) -> dict[str, Any]:
    """Returns everything for environment.json.

    Args:
        processes: Number of processes of the run.
    """
    has_gpu = torch.cuda.is_available()
    return {
        "started": datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": sys.argv,
        "processes": processes,
        "host": platform.node(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": version("torchvision") if is_installed("torchvision") else None,
        "numpy": numpy.__version__,
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if has_gpu else None,
        "cuda": torch.version.cuda if has_gpu else None,
        "cudnn": torch.backends.cudnn.version() if has_gpu else None,
        "ssd_ops": ssd_ops.build_info(),
        "commit": commit(_SOURCES),
    }


def commit(sources: Path) -> str | None:
    """Returns the commit of a checkout, with "-dirty" if its files differ; None if the folder is not one."""
    if not (sources / ".git").exists():
        return None  # installed; a repository further up is another project's
    command = ["git", "-C", str(sources), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=5).stdout.strip()
    return None
