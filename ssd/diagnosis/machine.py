"""What the machine offers: processor cores, memory, shared memory, GPUs."""

from __future__ import annotations

import os
import platform
import re
import shutil
from pathlib import Path

from ssd.common.cores import usable_cores
from ssd.diagnosis.findings import Section
from ssd.diagnosis.programs import find, output

_SMALL = 512 << 20  # bytes of shared memory that a few workers with batches of usual size fill


def examine(shared_memory: Path = Path("/dev/shm")) -> Section:
    """Returns cores, memory, shared memory and the GPUs that the driver knows."""
    section = Section()
    facts = section.facts
    facts["cores"] = usable_cores()
    facts["cpu"] = _cpu_name()
    facts["memory_gib"] = _memory_gib()
    if shared_memory.is_dir():
        usage = shutil.disk_usage(shared_memory)
        facts["shared_memory_mib"] = {"total": usage.total >> 20, "free": usage.free >> 20}
        if not os.access(shared_memory, os.W_OK):
            section.problem(
                f"{shared_memory} cannot be written to; workers pass batches through it, so training uses none",
                f"mount -o remount,rw {shared_memory}",
            )
        elif usage.free < _SMALL:
            section.problem(
                f"{shared_memory} has {usage.free >> 20} MiB free of {usage.total >> 20}; workers pass batches through it, "
                "so training uses fewer of them",
                "docker run --shm-size=8g, or mount -o remount,size=8g /dev/shm",
            )
    facts["driver"], facts["gpus"] = gpus_of_driver()
    return section


def gpus_of_driver() -> tuple[str | None, list[dict[str, str]]]:
    """Returns the version of NVIDIA's driver and the GPUs that it lists: name, compute capability, memory."""
    program = find("nvidia-smi")
    query = "--query-gpu=driver_version,name,compute_cap,memory.total"
    rows = output([*program, query, "--format=csv,noheader"]).splitlines() if program else []
    parts = [[part.strip() for part in row.split(",")] for row in rows]
    parts = [row for row in parts if len(row) == 4]
    gpus = [{"name": name, "capability": capability, "memory": memory} for _, name, capability, memory in parts]
    return (parts[0][0] if parts else None), gpus


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    named = (
        re.search(r"^model name\s*:\s*(.+)$", info.read_text(errors="replace"), re.MULTILINE) if info.exists() else None
    )
    return named[1] if named else platform.processor() or platform.machine()


def _memory_gib() -> float | None:
    info = Path("/proc/meminfo")
    total = re.search(r"MemTotal:\s+(\d+)", info.read_text()) if info.exists() else None
    return round(int(total[1]) / (1 << 20), 1) if total else None
