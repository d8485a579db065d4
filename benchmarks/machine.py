"""Describes the machine of a measurement: CPU, GPU, versions, commit, command, bandwidth of a copy, rate of arithmetic."""

from __future__ import annotations

import platform
import shlex
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torchvision

import ssd_ops
from benchmarks.stages import output_of

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
        info["driver"] = output_of("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader").splitlines()[:1]
    return info


def copy_bandwidth(device: torch.device) -> float:
    """Returns the bandwidth of a large copy in bytes per second, reads and writes together."""
    source = torch.zeros((1 << 30 if device.type == "cuda" else 1 << 28) // 4, device=device)
    target = torch.zeros_like(source)
    return 2 * source.numel() * source.element_size() / _fastest(lambda: target.copy_(source), device, 8)


@cache
def peak_flops(device: torch.device) -> float | None:
    """Returns the operations per second of a bfloat16 matrix product of random numbers on a GPU; None for a CPU.

    A GPU's power limit keeps it below the rate of its data sheet.
    """
    if device.type != "cuda":
        return None
    a, b = (torch.randn(_SIDE, _SIDE, device=device, dtype=torch.bfloat16) for _ in range(2))
    return 2 * _SIDE**3 / _fastest(lambda: torch.mm(a, b), device, 5)


def _fastest(call: Callable[[], object], device: torch.device, calls: int) -> float:
    """Returns the seconds of the fastest of some calls."""
    best = float("inf")
    for _ in range(calls):
        synchronize(device)
        start = time.perf_counter()
        call()
        synchronize(device)
        best = min(best, time.perf_counter() - start)
    return best


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
    return output_of("git", "-C", str(_ROOT), *arguments)
