"""Time of each CUDA kernel of an op, by torch.profiler: which of them a call spends its time in.

python benchmarks/kernel_times.py [--filter "nms uniform 10000 boxes"] [--calls 20] [--json FILE]

The rows are those of bench_ops_gpu.py. `start` is the median of the microseconds from the start of the first kernel of a
call, `time` of the duration; kernels may overlap, and one that starts early waits for the one before it. A profiled
call takes longer than others.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import _path  # noqa: F401
import torch

from benchmarks.gpu_rows import Row, rows
from benchmarks.machine import describe
from benchmarks.saving import saving


@dataclass
class KernelTime:
    """A kernel of a call: microseconds."""

    name: str
    start: float
    time: float


def main() -> None:
    """Profiles the selected rows, prints their kernels and writes the report after each."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--filter", default="", help="only rows whose name contains this")
    parser.add_argument("--calls", type=int, default=20, help="profiled calls of each row (default: 20)")
    parser.add_argument("--json", type=Path, help="write machine, command and all rows to this file")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("kernel_times.py needs a GPU")
    device = torch.device("cuda")
    report: dict[str, Any] = {"machine": describe(device, 1), "rows": []}
    with saving(arguments.json, report) as measuring:
        for row in rows(quick=False):
            if arguments.filter in row.name:
                with measuring(row.name):
                    kernels = kernels_of(profile(row, device, arguments.calls), arguments.calls)
                    report["rows"].append({"name": row.name, "kernels": kernels})
                    print("\n".join([row.name, *map(_line, kernels)]), flush=True)


def profile(row: Row, device: torch.device, calls: int) -> list[dict[str, Any]]:
    """Returns the events of a trace of some calls."""
    inputs = tuple(value.to(device) for value in row.make(torch.Generator().manual_seed(3)))
    run: Callable[[], Any] = lambda: row.call(*inputs)  # noqa: E731
    for _ in range(3):
        run()
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profiled:
        for _ in range(calls):
            run()
        torch.cuda.synchronize()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiled.export_chrome_trace(str(path))
        events: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["traceEvents"]
    return events


def kernels_of(events: list[dict[str, Any]], calls: int) -> list[KernelTime]:
    """Returns the kernels of a call in the order of their starts, which must be the same in all calls."""
    found = sorted((e for e in events if e.get("cat") == "kernel"), key=lambda e: e["ts"])
    if not found:
        raise RuntimeError("the profiler has recorded no kernel: is it allowed to, see nvidia-smi and CUPTI?")
    each = len(found) // calls
    groups = [found[i * each : (i + 1) * each] for i in range(calls)]
    names = [[short_name(e["name"]) for e in group] for group in groups]
    if len(found) % calls or names != names[:1] * calls:
        raise RuntimeError(f"{len(found)} kernels in {calls} calls, which differ from call to call")
    return [
        KernelTime(
            name,
            statistics.median(group[k]["ts"] - group[0]["ts"] for group in groups),
            statistics.median(group[k]["dur"] for group in groups),
        )
        for k, name in enumerate(names[0])
    ]


def short_name(name: str) -> str:
    """Returns `sort_kernel<true, float>` of `void ssd_ops::(anonymous namespace)::sort_kernel<true, float>(int*)`."""
    name = re.sub(r"\(anonymous namespace\)::|\bssd_ops::|^void |\((?:bool|int)\)", "", name)
    return name.partition("(")[0]


def _line(kernel: KernelTime) -> str:
    return f"  {kernel.name:60}  start {kernel.start:7.1f}  time {kernel.time:7.1f}"


if __name__ == "__main__":
    main()
