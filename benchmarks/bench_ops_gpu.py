"""Every op on a GPU beside its floor and its goal: CUDA graph replay with a cold and a warm L2 cache, and eager calls.

python benchmarks/bench_ops_gpu.py [--filter NAME] [--seconds 0.15] [--json FILE]

The floor is the bytes that must move at least once over the bandwidth of a plain copy, measured in the same run. `cold`:
a buffer larger than L2 is written before each replay. `warm`: one input set, replayed again and again; inputs larger than
L2 are read from DRAM there too. `eager`: a call from Python, launches and allocations included; the only figure of nms,
whose result has a length that the host must learn. Results are compared with those of the CPU before anything is timed.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import _path  # noqa: F401
import torch
from torch import Tensor

from benchmarks.gpu_rows import Row, rows
from benchmarks.harness import command_line
from benchmarks.machine import copy_bandwidth, describe

FLUSHED = 256 << 20  # bytes, more than any L2 cache
CALLS_AHEAD = 3e3  # microseconds of work that are queued between two events


@dataclass
class Figures:
    """Microseconds of one row; None where it was not measured."""

    name: str
    floor: float
    goal: float | None
    cold: float | None = None
    warm: float | None = None
    eager: float | None = None
    share_of_copy: float | None = None
    share_of_goal: float | None = None


def main() -> None:
    """Measure all rows, print them one by one, and write the report after each."""
    arguments = command_line(__doc__.splitlines()[0]).parse_args()
    if not torch.cuda.is_available():
        sys.exit("bench_ops_gpu.py needs a GPU; the other benchmarks run on the CPU too")
    device = torch.device("cuda")
    bandwidth = copy_bandwidth(device)
    report: dict[str, Any] = {"machine": describe(device, arguments.threads), "copy_bandwidth": bandwidth, "rows": []}
    print(f"{report['machine']['gpu']}, copy {bandwidth / 1e12:.2f} TB/s; microseconds\n{_line(None)}", flush=True)
    for row in _chosen(rows(arguments.quick), arguments.filter):
        figures = measure(row, device, bandwidth, 0.02 if arguments.quick else arguments.seconds)
        report["rows"].append(asdict(figures))
        print(_line(figures), flush=True)
        if arguments.json:
            partial = arguments.json.with_suffix(".partial")
            partial.write_text(json.dumps(report, indent=1, default=str) + "\n", encoding="utf-8")
            partial.replace(arguments.json)


def _chosen(all_rows: Iterator[Row], part: str) -> Iterator[Row]:
    return (row for row in all_rows if part in row.name)


def measure(row: Row, device: torch.device, bandwidth: float, seconds: float) -> Figures:
    """Check one row against the CPU and time it."""
    generator = torch.Generator().manual_seed(3)
    inputs = row.make(generator)
    on_gpu = tuple(_moved(value, device) for value in inputs)
    row.check(_moved(row.call(*on_gpu), torch.device("cpu")), row.call(*inputs))
    figures = Figures(row.name, row.bytes_moved / bandwidth * 1e6, row.goal)
    figures.eager = _per_call(lambda: row.call(*on_gpu), seconds)
    if row.graphed:
        replay = _captured(row, on_gpu)
        figures.warm, figures.cold = _per_call(replay, seconds), _after_flush(replay, device, seconds)
    best = figures.warm or figures.eager
    figures.share_of_copy = figures.floor / best if row.bytes_moved else None
    figures.share_of_goal = row.goal / best if row.goal else None
    return figures


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        return value.detach().to(device).requires_grad_(value.requires_grad)
    return tuple(_moved(v, device) for v in value) if isinstance(value, (list, tuple)) else value


def _captured(row: Row, inputs: tuple[Any, ...]) -> Callable[[], None]:
    """Return what replays one call. The graph owns the results, which live as long as it does."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        row.call(*inputs)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        row.call(*inputs)
    return graph.replay


def _elapsed(call: Callable[[], Any], times: int, before: Callable[[], Any] | None = None) -> float:
    """Return the microseconds on the GPU from the first of `times` calls to the end of the last."""
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


def _per_call(call: Callable[[], Any], seconds: float) -> float:
    once = min(_elapsed(call, 3) / 3 for _ in range(2))
    times = max(3, min(400, int(CALLS_AHEAD / max(once, 1e-3))))
    return _median(lambda: _elapsed(call, times) / times, seconds)


def _after_flush(call: Callable[[], Any], device: torch.device, seconds: float) -> float:
    buffer = torch.zeros(FLUSHED // 4, device=device)
    return _median(lambda: _elapsed(call, 1, before=lambda: buffer.add_(1)), seconds)


def _line(figures: Figures | None) -> str:
    names = ("cold", "warm", "eager", "floor", "goal")
    if figures is None:
        return f"{'':44}" + "".join(f"{name:>9}" for name in names) + f"{'of copy':>9}{'of goal':>9}"
    numbers = [getattr(figures, name) for name in names]
    cells = "".join(f"{value:9.1f}" if value else f"{'':9}" for value in numbers)
    shares = "".join(
        f"{value:9.0%}" if value is not None else f"{'':9}" for value in (figures.share_of_copy, figures.share_of_goal)
    )
    return f"{figures.name:44}{cells}{shares}".rstrip()


if __name__ == "__main__":
    main()
