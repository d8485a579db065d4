"""Benchmark harness: checks the results of all candidates, then times them in rotation on several input sets.

* Results are checked before anything is timed: on every input set, each candidate is compared with the reference (with the
  peer where the reference would take minutes).
* Calls rotate over several input sets, so that inputs are not always in cache. Candidates rotate too: each round starts
  with another one, so that load on the machine and heap growth affect all of them equally.
* CPU calls are timed with the wall clock, GPU calls with CUDA events around many calls. Tables show median and quartiles.
* The heap is warmed up first: after one large block was freed, glibc serves blocks of up to 32 MB from the heap and no
  longer returns its top to the system. Otherwise the first cases would measure page faults.
* Peak memory is that of one call, including its results (see memory.py). It is measured last, because it trims the heap.
* `GB/s` counts the bytes that must be moved at least once; `of copy` is that rate relative to a plain copy, measured in the
  same run. `of peak` is the rate of arithmetic relative to a bfloat16 matrix product, also measured in the same run.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks import memory
from benchmarks.gpu_busy import busy_seconds
from benchmarks.machine import copy_bandwidth, describe, peak_flops, synchronize
from benchmarks.saving import saving
from benchmarks.table import Report, Timing, headline, table

Call = Callable[..., Any]
PEER = "torchvision"
SLOW = 1.0  # seconds per call above which three samples are enough


@dataclass
class Case:
    """One op at one size."""

    name: str
    make: Callable[[torch.Generator, torch.device], tuple[Any, ...]]
    """Creates one input set."""
    candidates: dict[str, Call]
    """Name -> function of an input set; the peer is named `torchvision`."""
    check: Callable[[Any, Any], None]
    """Raises AssertionError if a result differs from the expected one."""
    bytes_moved: int = 0
    """Bytes that must be read or written at least once; 0 if the op is not memory-bound."""
    input_sets: int = 4
    check_against: str = "reference"
    """The candidate whose results are the expected ones: the peer where the reference would take minutes."""
    items: int = 0
    """Number of items that a call processes, shown as a rate; 0 for none."""
    item: str = "item"
    """Name of one item."""
    flops: Callable[[], float] | None = None
    """Returns the floating-point operations of a call; None for an op that is not bound by them."""


def main(title: str, make_cases: Callable[[torch.device, bool], Sequence[Case]], threads: int = 2) -> None:
    """Parses the command line and runs the cases of a benchmark."""
    arguments = command_line(title, threads).parse_args()
    run(title, arguments, make_cases(torch.device(arguments.device), arguments.quick))


def command_line(title: str, threads: int = 2) -> argparse.ArgumentParser:
    """Returns the argument parser shared by all benchmarks."""
    parser = argparse.ArgumentParser(description=title)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--threads", type=int, default=threads, help=f"CPU threads of all candidates (default: {threads})"
    )
    parser.add_argument("--seconds", type=float, default=1.0, help="seconds spent on each candidate (default: 1)")
    parser.add_argument("--filter", default="", help="only cases whose name contains this")
    parser.add_argument(
        "--quick", action="store_true", help="small cases, few samples: a smoke test, not a measurement"
    )
    parser.add_argument("--json", type=Path, help="write machine, command and all timings to this file")
    return parser


def run(title: str, arguments: argparse.Namespace, cases: Iterable[Case]) -> None:
    """Runs the selected cases, prints their timings and writes the report."""
    torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    torch.empty(30 << 20, dtype=torch.uint8)  # warms up the heap
    report = Report(describe(device, arguments.threads), copy_bandwidth(device))
    print(f"{title}\n{headline(report)}\n")
    with saving(arguments.json, report) as measuring:
        for case in cases:
            if arguments.filter in case.name:
                seconds = 0.02 if arguments.quick else arguments.seconds
                with measuring(case.name):
                    report.cases[case.name] = run_case(case, device, seconds, report.copy_bandwidth)
                    print(table(case.name, report.cases[case.name]), flush=True)


def run_case(case: Case, device: torch.device, seconds: float, bandwidth: float) -> dict[str, Timing]:
    """Checks every candidate on every input set, then times them in rotation."""
    generator = torch.Generator().manual_seed(0)
    inputs = [case.make(generator, device) for _ in range(case.input_sets)]
    checked = _check(case, inputs, device)
    timings: dict[str, Timing] = {}
    once = {  # slow candidates were warmed up by the check
        name: checked[name] if checked[name] > SLOW else _warm_up(call, inputs, device)
        for name, call in case.candidates.items()
    }
    loops = {name: max(1, min(1000, int(2e-3 / seconds_once))) for name, seconds_once in once.items()}
    samples: dict[str, list[float]] = {name: [] for name in case.candidates}
    deadline = time.perf_counter() + seconds * len(case.candidates)
    names = list(case.candidates)
    turn, min_rounds = 0, 3 if max(once.values()) > SLOW else 5
    while turn < min_rounds or time.perf_counter() < deadline:
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            if name == "reference" and once[name] > 0.2 and samples[name]:
                continue  # the reference is not written for speed: one sample is enough
            samples[name].append(_sample(case.candidates[name], inputs, turn, loops[name], device))
        turn += 1
        if turn >= min_rounds and max(once.values()) > seconds:
            break
    peaks = {name: _peak_memory(call, inputs[0], device, once[name]) for name, call in case.candidates.items()}
    for name, values in samples.items():
        quarter = statistics.quantiles(values, n=4) if len(values) > 1 else [values[0]] * 3
        timings[name] = Timing(statistics.median(values), quarter[0], quarter[2], len(values), peaks[name])
    for name, timing in timings.items():
        if case.items and device.type == "cuda":
            timing.busy = busy_seconds(partial(case.candidates[name], *inputs[0])) / timing.median
        if PEER in timings:
            timing.ratio = timings[PEER].median / timing.median
        if case.items:
            timing.note = f"{case.items / timing.median:.0f} {case.item}s/s"
        if case.bytes_moved:
            timing.gb_per_second = case.bytes_moved / timing.median / 1e9
            timing.fraction_of_copy = case.bytes_moved / timing.median / bandwidth
        if case.flops is not None and (peak := peak_flops(device)) is not None:
            timing.fraction_of_peak = case.flops() / timing.median / peak
    return timings


def _check(case: Case, inputs: list[tuple[Any, ...]], device: torch.device) -> dict[str, float]:
    """Checks all candidates on every input set; returns the seconds of the fastest call of each."""
    seconds: dict[str, float] = {}
    for arguments in inputs:
        expected = None
        for name in sorted(case.candidates, key=lambda name: name != case.check_against):  # the expected results first
            start = time.perf_counter()
            result = case.candidates[name](*arguments)
            synchronize(device)
            seconds[name] = min(seconds.get(name, float("inf")), time.perf_counter() - start)
            expected = result if name == case.check_against else expected
            try:
                case.check(result, expected)
            except AssertionError as error:
                raise SystemExit(
                    f"{case.name}: {name} differs from {case.check_against}, nothing is timed: {error}"
                ) from error
    return seconds


def _warm_up(call: Call, inputs: list[tuple[Any, ...]], device: torch.device) -> float:
    """Calls twice and returns the seconds of one call, which sets the number of calls in a sample."""
    synchronize(device)
    start = time.perf_counter()
    for arguments in inputs[:2]:
        call(*arguments)
    synchronize(device)
    return max((time.perf_counter() - start) / len(inputs[:2]), 1e-7)


def _peak_memory(call: Call, arguments: tuple[Any, ...], device: torch.device, once: float) -> int | None:
    """Returns the lower of two peaks: the first call may also load code or start threads."""
    peaks = [memory.peak_memory(lambda: call(*arguments), device) for _ in range(2 if once < 0.5 else 1)]
    return min((peak for peak in peaks if peak is not None), default=None)


def _sample(call: Call, inputs: list[tuple[Any, ...]], turn: int, loops: int, device: torch.device) -> float:
    """Returns the seconds of one call, averaged over `loops` calls on rotating inputs."""
    sets = [inputs[(turn + i) % len(inputs)] for i in range(loops)]
    if device.type == "cuda":
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        torch.cuda.synchronize(device)
        begin.record()
        for arguments in sets:
            call(*arguments)
        end.record()
        torch.cuda.synchronize(device)
        return begin.elapsed_time(end) / 1e3 / loops
    start = time.perf_counter()
    for arguments in sets:
        call(*arguments)
    return (time.perf_counter() - start) / loops
