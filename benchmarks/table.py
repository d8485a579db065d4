"""The timings of a benchmark, and their form as text."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from benchmarks import memory


@dataclass
class Timing:
    """Seconds of one candidate in one case."""

    median: float
    low: float
    high: float
    samples: int
    peak_memory: int | None = None
    """Peak memory of one call in bytes, including its results."""
    ratio: float | None = None
    gb_per_second: float | None = None
    fraction_of_copy: float | None = None
    busy: float | None = None
    """Fraction of a call in which the GPU was busy; whole detectors only."""
    fraction_of_peak: float | None = None
    """Rate of arithmetic relative to a bfloat16 matrix product on the same GPU; whole detectors only."""
    note: str = ""


@dataclass
class Report:
    """All timings of a run, with a description of the machine."""

    machine: dict[str, Any]
    copy_bandwidth: float
    cases: dict[str, dict[str, Timing]] = field(default_factory=dict)


def headline(report: Report) -> str:
    """Returns one line that describes machine and versions."""
    machine = report.machine
    where = machine.get("gpu") or f"{machine['cpu']}, {machine['threads']} threads"
    return (
        f"{where}; copy {report.copy_bandwidth / 1e9:.1f} GB/s; torch {machine['torch']}, torchvision "
        f"{machine['torchvision']}; commit {machine['commit']}{' (modified)' if machine['dirty'] else ''}"
    )


def table(name: str, timings: dict[str, Timing]) -> str:
    """Returns the timings of one case as text."""
    lines, width = [name], max(22, *map(len, timings))
    for candidate, timing in timings.items():
        cells = [
            f"  {candidate:<{width}}",
            f"{duration(timing.median):>10}",
            f"({duration(timing.low)} .. {duration(timing.high)})".rjust(26),
            (memory.shown(timing.peak_memory) if timing.peak_memory is not None else "").rjust(8),
            f"{timing.ratio:8.2f} x" if timing.ratio is not None else " " * 10,
            f"{timing.gb_per_second:8.1f} GB/s" if timing.gb_per_second is not None else "",
            f"{timing.fraction_of_copy:6.1%} of copy" if timing.fraction_of_copy is not None else "",
            f"GPU busy {timing.busy:4.0%}" if timing.busy is not None else "",
            f"{timing.fraction_of_peak:6.1%} of peak" if timing.fraction_of_peak is not None else "",
            timing.note,
        ]
        lines.append(" ".join(cells).rstrip())
    return "\n".join(lines)


def duration(seconds: float) -> str:
    """Returns a duration in seconds as text, with a suitable unit."""
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= scale:
            return f"{seconds / scale:.3g} {unit}"
    return f"{seconds * 1e9:.3g} ns"
