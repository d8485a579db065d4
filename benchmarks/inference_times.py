"""Inference time of whole detectors: InferenceEngine against the plain model, from host images to host detections.

python benchmarks/inference_times.py [--models NAME ...] [--batches N ...] [--ways NAME ...] [--cudnn-benchmark]

Each line shows milliseconds per batch and images per second; on a GPU also the fraction of that time in which it is busy
according to torch's profiler, and the rate of arithmetic. `list` is `model(images)`, with torchvision's model beside it;
`predict` is `InferenceEngine.predict` of uint8 images of 375 x 500; `batches` is `InferenceEngine.detect_all` over uint8
batches of the network's input size, where the copy of the next batch overlaps with the computation of the current one.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import _path  # noqa: F401
import torch

from benchmarks.detector_pair import PEERS, Pair
from benchmarks.gpu_busy import busy_seconds
from benchmarks.roofline import roofline_share
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
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    torch.backends.cudnn.benchmark = arguments.cudnn_benchmark
    for name in arguments.models:
        pair = Pair(name, device, False)  # with a few hundred candidates per image, like a trained detector
        model, engines = pair.ours, {way: InferenceEngine(pair.ours, **WAYS[way]) for way in arguments.ways}
        for count in arguments.batches:
            photos = [torch.randint(0, 256, (3, 375, 500), dtype=torch.uint8) for _ in range(count)]
            floats = [image.to(device).float().div(255) for image in photos]
            ready = torch.randint(0, 256, (count, 3, model.image_size, model.image_size), dtype=torch.uint8)
            ready = ready.pin_memory() if device.type == "cuda" else ready

            line, title = partial(_line, model, count, arguments.seconds), f"{name} B{count}"
            if not arguments.no_lists:
                line(f"{title} list", partial(_listed, model, floats))
                line(f"{title} list of torchvision", partial(_listed, pair.peer, floats))
            for way, engine in engines.items():
                line(f"{title} predict {way}", partial(engine.predict, photos))
                line(f"{title} batches {way}", partial(_all, engine, ready), _BATCHES)


@torch.inference_mode()
def _listed(model: torch.nn.Module, images: list[torch.Tensor]) -> None:
    for found in model(images):
        [value.cpu() for value in found.values()]


def _all(engine: InferenceEngine, batch: torch.Tensor) -> None:
    for _ in engine.detect_all([batch] * _BATCHES):
        pass


def _line(model: SSD, images: int, seconds: float, name: str, call: Callable[[], object], batches: int = 1) -> None:
    for _ in range(2):
        call()
    calls, start = 0, time.perf_counter()
    while calls < 2 or time.perf_counter() - start < seconds:
        call()
        calls += 1
    each = (time.perf_counter() - start) / calls / batches
    print(
        f"{name}: {each * 1e3:.2f} ms, {images / each:.0f} img/s{_of_gpu(model, images, each, call, batches)}",
        flush=True,
    )


def _of_gpu(model: SSD, images: int, each: float, call: Callable[[], object], batches: int) -> str:
    """Returns how busy the GPU is while a batch takes `each` seconds; nothing for a CPU."""
    if model.priors.device.type != "cuda":
        return ""
    busy = busy_seconds(call, repeats=2) / batches
    return f", GPU busy {busy * 1e3:.2f} ms ({busy / each:.0%}), {roofline_share(model, images, each)}"


if __name__ == "__main__":
    main()
