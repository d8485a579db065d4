"""Describes the machine of a measurement: CPU, GPU, versions, commit, command, bandwidth of a copy, rate of arithmetic."""

from __future__ import annotations

import platform
import shlex
import subprocess
import sys
import time
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torchvision

import ssd_ops

_ROOT = Path(__file__).resolve().parent.parent
_SIDE = 8192  # of the matrices


def describe(device: torch.device, threads: int) -> dict[str, Any]:
    """Returns what a reader needs to judge or reproduce a measurement."""
    info: dict[str, Any] = {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "command": shlex.join(["python", *_relative(sys.orig_argv[1:])]),
        "commit": _git("rev-parse", "--short=12", "HEAD"),
        "dirty": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "cpu": _cpu_name(),
        "threads": threads,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "ssd_ops": ssd_ops.build_info(),
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        info["gpu"] = properties.name
        info["gpu_multiprocessors"] = properties.multi_processor_count
        info["driver"] = _run("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader").splitlines()[:1]
    return info


def copy_bandwidth(device: torch.device) -> float:
    """Returns the bandwidth of a large copy in bytes per second, reads and writes together."""
    source = torch.zeros((1 << 30 if device.type == "cuda" else 1 << 28) // 4, device=device)
    target = torch.zeros_like(source)
    best = float("inf")
    for _ in range(8):
        synchronize(device)
        start = time.perf_counter()
        target.copy_(source)
        synchronize(device)
        best = min(best, time.perf_counter() - start)
    return 2 * source.numel() * source.element_size() / best


@cache
def peak_flops(device: torch.device) -> float | None:
    """Returns the operations per second of a bfloat16 matrix product of random numbers on a GPU; None for a CPU.

    A GPU's power limit keeps it below the rate of its data sheet.
    """
    if device.type != "cuda":
        return None
    a, b = (torch.randn(_SIDE, _SIDE, device=device, dtype=torch.bfloat16) for _ in range(2))
    best = float("inf")
    for _ in range(5):
        synchronize(device)
        start = time.perf_counter()
        torch.mm(a, b)
        synchronize(device)
        best = min(best, time.perf_counter() - start)
    return 2 * _SIDE**3 / best


def synchronize(device: torch.device) -> None:
    """Synchronizes with the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _relative(arguments: list[str]) -> list[str]:
    """Removes the path of the checkout from the arguments."""
    return [argument.replace(f"{_ROOT}/", "") for argument in arguments]


def _cpu_name() -> str:
    for line in _read("/proc/cpuinfo").splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError:
        return ""


def _git(*arguments: str) -> str:
    if not (_ROOT / ".git").exists():
        return ""  # an export; a repository further up is another project's
    return _run("git", "-C", str(_ROOT), *arguments)


def _run(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
