"""Inference time of whole detectors: InferenceEngine against the plain model, from host images to host detections.

python benchmarks/inference_times.py [--device cuda] [--models NAME ...] [--batches N ...] [--compile] [--cudnn-benchmark]

Each line shows milliseconds per batch and images per second. `list` is `model(images)`; `predict` is
`InferenceEngine.predict` of uint8 images of 375 x 500; `batches` is `InferenceEngine.detect_all` over uint8 batches of the
network's input size, where the copy of the next batch overlaps with the computation of the current one.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial

import _path  # noqa: F401
import torch

from benchmarks.detector_pair import PEERS, Pair
from ssd.inference.engine import InferenceEngine
from ssd.models import SSD


def main() -> None:
    """Times the selected models and batch sizes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--models", nargs="+", choices=PEERS, default=list(PEERS)[::-1])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 32])
    parser.add_argument("--compile", action="store_true", help="also time the engine with torch.compile")
    parser.add_argument("--cudnn-benchmark", action="store_true", help="let cuDNN benchmark its algorithms first")
    parser.add_argument("--seconds", type=float, default=1.0, help="seconds spent on each line (default: 1)")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    torch.backends.cudnn.benchmark = arguments.cudnn_benchmark
    for name in arguments.models:
        model = Pair(name, device, False).ours  # with a few hundred candidates per image, like a trained detector
        engines = {"": InferenceEngine(model), " float32": InferenceEngine(model, dtype=torch.float32)}
        if arguments.compile:
            engines[" compile"] = InferenceEngine(model, compile=True)
        for count in arguments.batches:
            photos = [torch.randint(0, 256, (3, 375, 500), dtype=torch.uint8) for _ in range(count)]
            floats = [image.to(device).float().div(255) for image in photos]
            ready = torch.randint(0, 256, (count, 3, model.image_size, model.image_size), dtype=torch.uint8)
            ready = ready.pin_memory() if device.type == "cuda" else ready

            _line(f"{name} B{count} list", partial(_listed, model, floats), count, 1, arguments.seconds)
            for way, engine in engines.items():
                _line(f"{name} B{count} predict{way}", partial(engine.predict, photos), count, 1, arguments.seconds)
                _line(f"{name} B{count} batches{way}", partial(_all, engine, ready), count * 8, 8, arguments.seconds)


@torch.inference_mode()
def _listed(model: SSD, images: list[torch.Tensor]) -> None:
    for found in model(images):
        [value.cpu() for value in found.values()]  # type: ignore[union-attr]


def _all(engine: InferenceEngine, batch: torch.Tensor) -> None:
    for _ in engine.detect_all([batch] * 8):
        pass


def _line(name: str, call: Callable[[], object], images: int, batches: int, seconds: float) -> None:
    for _ in range(2):
        call()
    calls, start = 0, time.perf_counter()
    while calls < 2 or time.perf_counter() - start < seconds:
        call()
        calls += 1
    each = (time.perf_counter() - start) / calls
    print(f"{name}: {each / batches * 1e3:.2f} ms, {images / each:.0f} img/s", flush=True)


if __name__ == "__main__":
    main()
