"""Time of every op on a GPU with its lower bound and its goal: CUDA graph replay with cold and warm L2 cache, eager calls.

python benchmarks/bench_ops_gpu.py [--filter NAME] [--seconds 0.15] [--json FILE]

`floor` is the number of bytes that must be moved at least once, divided by the bandwidth of a plain copy in the same run.
`cold`: a buffer larger than L2 is written before each replay of a graph of one call. `warm`: repeated replays of a graph
of ten calls with the same inputs, of which those larger than L2 come from DRAM; a graph of one call would add the 2.4 us
that a replay takes by itself. `eager`: calls from Python, including launches and allocations; the only figure for nms,
which synchronizes to learn the number of kept boxes. Results are compared with those of the CPU before anything is timed.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import _path  # noqa: F401
import torch
from torch import Tensor

from benchmarks.gpu_rows import Row, rows
from benchmarks.harness import command_line
from benchmarks.machine import copy_bandwidth, describe
from benchmarks.saving import saving

CALLS_PER_GRAPH = 10
FLUSH_BYTES = 256 << 20  # larger than any L2 cache
QUEUED_MICROSECONDS = 3e3  # work queued between two events


@dataclass
class Figures:
    """Microseconds of one row; None if not measured."""

    name: str
    floor: float
    goal: float | None
    cold: float | None = None
    warm: float | None = None
    eager: float | None = None
    fraction_of_copy: float | None = None
    fraction_of_goal: float | None = None


def main() -> None:
    """Measures the selected rows, prints them and writes the report after each."""
    arguments = command_line(__doc__.splitlines()[0]).parse_args()
    if not torch.cuda.is_available():
        sys.exit("bench_ops_gpu.py needs a GPU; the other benchmarks run on the CPU too")
    device = torch.device("cuda")
    bandwidth = copy_bandwidth(device)
    report: dict[str, Any] = {"machine": describe(device, arguments.threads), "copy_bandwidth": bandwidth, "rows": []}
    print(f"{report['machine']['gpu']}, copy {bandwidth / 1e12:.2f} TB/s; microseconds\n{_line(None)}", flush=True)
    with saving(arguments.json, report) as measuring:
        for row in rows(arguments.quick):
            if arguments.filter in row.name:
                with measuring(row.name):
                    figures = measure(row, device, bandwidth, 0.02 if arguments.quick else arguments.seconds)
                    report["rows"].append(figures)
                    print(_line(figures), flush=True)


def measure(row: Row, device: torch.device, bandwidth: float, seconds: float) -> Figures:
    """Checks one row against the CPU and times it."""
    generator = torch.Generator().manual_seed(3)
    inputs = row.make(generator)
    on_gpu = tuple(_to_device(value, device) for value in inputs)
    row.check(_to_device(row.call(*on_gpu), torch.device("cpu")), row.call(*inputs))
    figures = Figures(row.name, row.bytes_moved / bandwidth * 1e6, row.goal)
    figures.eager = _time_per_call(lambda: row.call(*on_gpu), seconds)
    if row.graphed:
        figures.warm = _time_per_call(_capture(row, on_gpu, CALLS_PER_GRAPH), seconds) / CALLS_PER_GRAPH
        figures.cold = _cold_time(_capture(row, on_gpu, 1), device, seconds)
    best = figures.warm or figures.eager
    figures.fraction_of_copy = figures.floor / best if row.bytes_moved else None
    figures.fraction_of_goal = row.goal / best if row.goal else None
    return figures


def _to_device(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        return value.detach().to(device).requires_grad_(value.requires_grad)
    return tuple(_to_device(v, device) for v in value) if isinstance(value, (list, tuple)) else value


def _capture(row: Row, inputs: tuple[Any, ...], calls: int) -> Callable[[], None]:
    """Captures calls as a CUDA graph and returns its replay function. The graph owns the results."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        row.call(*inputs)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(calls):
            row.call(*inputs)
    return graph.replay


def _elapsed(call: Callable[[], Any], times: int, before: Callable[[], Any] | None = None) -> float:
    """Returns the GPU time of `times` calls in microseconds."""
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    if before is not None:
        before()
    begin.record()
    for _ in range(times):
        call()
    end.record()
    torch.cuda.synchronize()
    return begin.elapsed_time(end) * 1e3


def _median(sample: Callable[[], float], seconds: float) -> float:
    samples, deadline = [sample() for _ in range(3)], time.perf_counter() + seconds
    while time.perf_counter() < deadline:
        samples.append(sample())
    return statistics.median(samples)


def _time_per_call(call: Callable[[], Any], seconds: float) -> float:
    once = min(_elapsed(call, 3) / 3 for _ in range(2))
    times = max(3, min(400, int(QUEUED_MICROSECONDS / max(once, 1e-3))))
    return _median(lambda: _elapsed(call, times) / times, seconds)


def _cold_time(call: Callable[[], Any], device: torch.device, seconds: float) -> float:
    buffer = torch.zeros(FLUSH_BYTES // 4, device=device)
    return _median(lambda: _elapsed(call, 1, before=lambda: buffer.add_(1)), seconds)


def _line(figures: Figures | None) -> str:
    names = ("cold", "warm", "eager", "floor", "goal")
    if figures is None:
        return f"{'':44}" + "".join(f"{name:>9}" for name in names) + f"{'of copy':>9}{'of goal':>9}"
    numbers = [getattr(figures, name) for name in names]
    cells = "".join(f"{value:9.1f}" if value else f"{'':9}" for value in numbers)
    fractions = (figures.fraction_of_copy, figures.fraction_of_goal)
    percentages = "".join(f"{value:9.0%}" if value is not None else f"{'':9}" for value in fractions)
    return f"{figures.name:44}{cells}{percentages}".rstrip()


if __name__ == "__main__":
    main()
