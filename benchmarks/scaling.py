"""Scaling of time and memory with the input size: nms, match_priors and detect against torchvision, as SVG and JSON.

python benchmarks/scaling.py [--quick] [--results FOLDER]

Writes scaling-nms, scaling-match and scaling-detect, each as .json and .svg. torchvision is stopped when its next call is
predicted to take more than `--limit` seconds, extrapolated from the last two sizes; the figure shows where. Results are
compared wherever both run; scores have no ties. A point is the fastest of several calls.
"""

from __future__ import annotations

import argparse
import gc
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import _path  # noqa: F401
import torch
import torchvision

import ssd_ops
from benchmarks import bench_detect, inputs, peers
from benchmarks.machine import describe, synchronize
from benchmarks.memory import peak_memory
from benchmarks.saving import save

RESULTS = Path(__file__).resolve().parent / "results"
OURS, PEER = "ssd_ops", "torchvision"


@dataclass
class Point:
    """Seconds and peak memory in bytes of a call at one size."""

    size: int
    seconds: float
    memory: int | None


@dataclass
class Sweep:
    """One op at increasing sizes."""

    name: str
    axis: str
    sizes: Sequence[int]
    make: Callable[[int, torch.Generator], tuple[Any, ...]]
    candidates: dict[str, Callable[..., Any]]
    check: Callable[[Any, Any], None]
    points: dict[str, list[Point]] = field(default_factory=dict)
    stopped: dict[str, str] = field(default_factory=dict)


def sweeps(quick: bool) -> list[Sweep]:
    """Returns the three sweeps; short ones for --quick."""
    priors = inputs.ssd300_priors()

    def boxes(count: int, generator: torch.Generator) -> tuple[Any, ...]:
        side = 1000 * math.sqrt(count / 1000)  # the same density at every size
        return inputs.uniform_boxes(count, generator, side), inputs.distinct_scores(count, generator)

    def objects(count: int, generator: torch.Generator) -> tuple[Any, ...]:
        return inputs.ground_truths(8, count, generator)

    def outputs(batch: int, generator: torch.Generator) -> tuple[Any, ...]:
        logits = inputs.trained_logits(batch, len(priors), 91, 200, generator)
        return torch.randn(batch, len(priors), 4, generator=generator), logits

    rules = {"score_threshold": 0.01, "iou_threshold": 0.45}
    return [
        Sweep(
            "nms",
            "boxes (1,000 to a megapixel)",
            [10**2, 10**3] if quick else [10**2, 10**3, 10**4, 10**5, 10**6],
            boxes,
            {OURS: lambda b, s: ssd_ops.nms(b, s, 0.5), PEER: lambda b, s: torchvision.ops.nms(b, s, 0.5)},
            _equal,
        ),
        Sweep(
            "match",
            "objects an image (batch 8, 8,732 priors)",
            [1, 10] if quick else [1, 3, 10, 30, 100, 300, 1000],
            objects,
            {
                OURS: lambda b, x: _matches(b, x, priors),
                PEER: lambda b, x: peers.match_and_encode(b, x, priors),
            },
            lambda result, expected: _equal(result[0], expected[0], 1e-3),
        ),
        Sweep(
            "detect",
            "images in a batch (8,732 priors, 91 classes)",
            [1, 2] if quick else [1, 4, 16, 64, 256],
            outputs,
            {
                OURS: lambda loc, x: ssd_ops.detect(loc, x, priors, **rules),
                PEER: lambda loc, x: bench_detect.as_detections(
                    peers.postprocess(loc, x, priors, 0.01, 0.45, 400, 200)
                ),
            },
            bench_detect.check,
        ),
    ]


def _matches(boxes: list[torch.Tensor], labels: list[torch.Tensor], priors: torch.Tensor) -> Any:
    found = ssd_ops.match_priors(boxes, labels, priors, rule="last")
    return found.labels, found.loc_targets


def _equal(result: torch.Tensor, expected: torch.Tensor, max_fraction: float = 0.0) -> None:
    assert result.shape == expected.shape, f"{list(result.shape)} instead of {list(expected.shape)}"
    different = (result != expected).float().mean() if len(result) else 0.0
    assert different <= max_fraction, f"{different:.2%} of the values differ"


def run(sweep: Sweep, limit: float, seconds: float, device: torch.device) -> None:
    """Measures all points, each for `seconds`, and stops torchvision when a call would exceed `limit` seconds."""
    for size in sweep.sizes:
        gc.collect()
        arguments = sweep.make(size, torch.Generator().manual_seed(size))
        results = {}
        for name, call in sweep.candidates.items():
            expected = next_seconds(sweep.points.get(name, []), size)
            if name in sweep.stopped or (name == PEER and expected > limit):
                sweep.stopped.setdefault(name, f"stopped before {size:,}: some {expected:.0f} s a call")
                continue
            results[name], point = _measure(call, arguments, size, seconds, device)
            sweep.points.setdefault(name, []).append(point)
            print(f"{sweep.name:7} {size:8,} {name:12} {point.seconds * 1e3:12.3f} ms", flush=True)
        if len(results) == 2:
            sweep.check(results[OURS], results[PEER])


def _measure(
    call: Callable[..., Any], arguments: tuple[Any, ...], size: int, seconds: float, device: torch.device
) -> tuple[Any, Point]:
    result = call(*arguments)
    samples: list[float] = []
    begin = time.perf_counter()
    while not samples or (len(samples) < 50 and time.perf_counter() - begin < seconds):
        start = time.perf_counter()
        call(*arguments)
        synchronize(device)
        samples.append(time.perf_counter() - start)
    memory = peak_memory(lambda: call(*arguments), device) if samples[0] < 2 else None
    return result, Point(size, min(samples), memory)


def next_seconds(points: list[Point], size: int) -> float:
    """Extrapolates the time of the next size on log-log axes, with a slope of at least 1."""
    if len(points) < 2:
        return 0.0
    before, last = points[-2:]
    slope = math.log(last.seconds / before.seconds) / math.log(last.size / before.size)
    return last.seconds * (size / last.size) ** max(1.0, slope)


def draw(sweep: Sweep, note: str, path: Path) -> None:
    """Plots time and memory against size on log-log axes."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.hashsalt": "ssd_ops", "svg.fonttype": "none"})  # reproducible files
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    for panel, label in zip(panels, ("seconds a call", "peak memory of a call, MB"), strict=True):
        for name, points in sweep.points.items():
            values = [p.seconds if panel is panels[0] else p.memory and p.memory / 1e6 for p in points]
            shown = [(p.size, v) for p, v in zip(points, values, strict=True) if v]
            if shown:
                panel.plot(*zip(*shown, strict=True), marker="o", markersize=4, label=name)
        panel.set(xscale="log", yscale="log", xlabel=sweep.axis, ylabel=label)
        panel.grid(alpha=0.3)
        panel.legend(frameon=False)
    for name, reason in sweep.stopped.items():
        panels[0].set_title(f"{name} {reason}", fontsize=8)
    figure.suptitle(f"{sweep.name}: {note}", fontsize=8)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def main() -> None:
    """Runs, writes and plots all sweeps."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2, help="CPU threads of both (default: 2)")
    parser.add_argument("--limit", type=float, default=8.0, help="longest call of torchvision in seconds (default: 8)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="output folder of figures and JSON files")
    parser.add_argument("--quick", action="store_true", help="small sizes: a smoke test")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device = torch.device("cpu")
    machine = describe(device, arguments.threads)
    note = f"{machine['cpu']}, {arguments.threads} threads, torch {machine['torch']}, commit {machine['commit']}"
    for sweep in sweeps(arguments.quick):
        run(sweep, arguments.limit, 0.05 if arguments.quick else 1.0, device)
        about = {"machine": machine, "op": sweep.name, "axis": sweep.axis}
        path = arguments.results / f"scaling-{sweep.name}.json"
        save(path, {**about, "points": sweep.points, "stopped": sweep.stopped})
        draw(sweep, note, path.with_suffix(".svg"))


if __name__ == "__main__":
    main()
