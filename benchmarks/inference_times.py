"""Inference time of whole detectors: InferenceEngine against the plain model, from host images to host detections.

python benchmarks/inference_times.py [--models NAME ...] [--batches N ...] [--ways NAME ...] [--cudnn-benchmark]
                                     [--json FILE]

Each line shows milliseconds per batch and images per second; on a GPU also the fraction of that time in which it is busy
according to torch's profiler, and the rate of arithmetic. `list` is `model(images)`, with torchvision's model beside it;
`predict` is `InferenceEngine.predict` of uint8 images of 375 x 500; `batches` is `InferenceEngine.detect_all` over uint8
batches of the network's input size, where the copy of the next batch overlaps with the computation of the current one.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import _path  # noqa: F401
import torch

from benchmarks.detector_pair import PEERS, Pair
from benchmarks.gpu_busy import busy_seconds
from benchmarks.machine import describe
from benchmarks.roofline import rate_of, rate_shown
from benchmarks.saving import saving
from ssd.inference.engine import InferenceEngine
from ssd.models import SSD

WAYS: dict[str, dict[str, Any]] = {
    "default": {},
    "float32": {"dtype": torch.float32},
    "fused": {"fuse_heads": True},
    "compile": {"compile": True},
}
_BATCHES = 8  # of a call of `batches`


def main() -> None:
    """Times the selected models and batch sizes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--models", nargs="+", choices=PEERS, default=list(PEERS)[::-1])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 32])
    parser.add_argument(
        "--ways", nargs="*", choices=WAYS, default=["default", "float32"], help="options of the engine to time"
    )
    parser.add_argument("--no-lists", action="store_true", help="time the engine alone")
    parser.add_argument("--cudnn-benchmark", action="store_true", help="let cuDNN benchmark its algorithms first")
    parser.add_argument("--seconds", type=float, default=1.0, help="seconds spent on each line (default: 1)")
    parser.add_argument("--json", type=Path, help="write machine, command and all rows to this file")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    torch.backends.cudnn.benchmark = arguments.cudnn_benchmark
    rows: list[dict[str, Any]] = []
    report = {"machine": describe(device, torch.get_num_threads()), "rows": rows}
    with saving(arguments.json, report) as measuring:
        for model, count, way in itertools.product(arguments.models, arguments.batches, ("list", *arguments.ways)):
            if way == "list" and arguments.no_lists:
                continue
            with measuring(f"{model} B{count} {way}"):
                for name, call, batches in _calls(model, count, way, device):
                    pair = Pair(model, device, False)
                    rows.append({"name": name, **_time(pair.ours, count, arguments.seconds, call, batches)})
                    print(_line(rows[-1]), flush=True)


def _calls(name: str, count: int, way: str, device: torch.device) -> Iterator[tuple[str, Callable[[], object], int]]:
    """Yields the calls of a way, each with its name and number of batches."""
    pair, title = Pair(name, device, False), f"{name} B{count}"  # a few hundred candidates, like a trained detector
    photos = [torch.randint(0, 256, (3, 375, 500), dtype=torch.uint8) for _ in range(count)]
    if way == "list":
        floats = [image.to(device).float().div(255) for image in photos]
        yield f"{title} list", partial(_listed, pair.ours, floats), 1
        yield f"{title} list of torchvision", partial(_listed, pair.peer, floats), 1
        return
    engine, side = _engine(name, device, way), pair.ours.image_size
    ready = torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8)
    ready = ready.pin_memory() if device.type == "cuda" else ready
    yield f"{title} predict {way}", partial(engine.predict, photos), 1
    yield f"{title} batches {way}", partial(_all, engine, ready), _BATCHES


@cache
def _engine(name: str, device: torch.device, way: str) -> InferenceEngine:
    return InferenceEngine(Pair(name, device, False).ours, **WAYS[way])


@torch.inference_mode()
def _listed(model: torch.nn.Module, images: list[torch.Tensor]) -> None:
    for found in model(images):
        [value.cpu() for value in found.values()]


def _all(engine: InferenceEngine, batch: torch.Tensor) -> None:
    for _ in engine.detect_all([batch] * _BATCHES):
        pass


def _time(model: SSD, images: int, seconds: float, call: Callable[[], object], batches: int) -> dict[str, Any]:
    """Returns the seconds of a batch, and on a GPU those in which it is busy."""
    for _ in range(2):
        call()
    calls, start = 0, time.perf_counter()
    while calls < 2 or time.perf_counter() - start < seconds:
        call()
        calls += 1
    each = (time.perf_counter() - start) / calls / batches
    found: dict[str, Any] = {"seconds": each, "images_per_second": images / each}
    if model.priors.device.type == "cuda":
        found["busy_seconds"] = busy_seconds(call, repeats=2) / batches
        found |= rate_of(model, images, each)
    return found


def _line(row: dict[str, Any]) -> str:
    each, text = row["seconds"], ""
    if "busy_seconds" in row:
        busy = row["busy_seconds"]
        text = f", GPU busy {busy * 1e3:.2f} ms ({busy / each:.0%}), {rate_shown(row)}"
    return f"{row['name']}: {each * 1e3:.2f} ms, {row['images_per_second']:.0f} img/s{text}"


if __name__ == "__main__":
    main()
