"""Time of a training step of whole detectors on a GPU, eager and as a CUDA graph, and how long the GPU is busy.

python benchmarks/step_times.py [--steps N] [--filter TEXT] [--ways off on] [--cudnn-benchmark] [--profile]

Each line shows milliseconds and images per second of `train_step`, the fraction of that time in which the GPU is busy
according to torch's profiler, and the rate of arithmetic. Batches are on the GPU and have 8 objects per image.
"""

from __future__ import annotations

import argparse
import gc
import time
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import _path  # noqa: F401
import torch

from benchmarks.gpu_busy import busy_seconds
from benchmarks.roofline import TRAINING, roofline_share
from ssd.config import TrainConfig
from ssd.data import Batch
from ssd.engine.step import make_state, train_step
from ssd.models import build_model

_PLAIN = {"opt": "sgd", "ema_decay": 0.0, "clip_grad_norm": 0.0}
_HALF = {**_PLAIN, "amp": True, "channels_last": True}
_BCCD = {"opt": "adamw", "ema_decay": 0.99, "clip_grad_norm": 10.0}
_BCCD_MODEL = {"min_stride": 8, "fpn_width": 96}


class Row(NamedTuple):
    """A detector, its batch size and its training settings."""

    model: str
    classes: int
    batch: int
    settings: dict[str, Any]
    options: dict[str, Any] = {}  # noqa: RUF012  never changed


ROWS = (
    Row("ssdlite320_mobilenet_v2", 4, 8, _BCCD, _BCCD_MODEL),
    Row("ssdlite320_mobilenet_v2", 4, 8, {**_BCCD, "amp": True, "channels_last": True}, _BCCD_MODEL),
    Row("ssd300_vgg16", 91, 32, _PLAIN),
    Row("ssd300_vgg16", 91, 32, _HALF),
    Row("ssd300_vgg16", 91, 4, _HALF),
    Row("ssd300_resnet50", 91, 32, _HALF),
    Row("ssdlite320_mobilenet_v3_large", 91, 24, _HALF),
    Row("ssd_tiny", 4, 16, _BCCD),
)


def main() -> None:
    """Times the selected rows."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=20, help="number of timed steps (default: 20)")
    parser.add_argument("--filter", default="", help="only rows whose name contains this")
    parser.add_argument(
        "--ways", nargs="+", choices=("off", "on"), default=("off", "on"), help="values of --cuda-graph to time"
    )
    parser.add_argument("--cudnn-benchmark", action="store_true", help="let cuDNN benchmark its algorithms first")
    parser.add_argument("--profile", action="store_true", help="also list the slowest kernels")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("step_times.py needs a GPU")
    torch.backends.cudnn.benchmark = arguments.cudnn_benchmark
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}")
    for row in ROWS:
        name = f"{row.model} B{row.batch} " + " ".join(f"{k}={v}" for k, v in row.settings.items())
        if arguments.filter in name:
            for way in arguments.ways:
                _time(row, name, way, arguments)


def _time(row: Row, name: str, way: str, arguments: argparse.Namespace) -> None:
    gc.collect()  # frees the previous row
    torch.cuda.empty_cache()
    torch.manual_seed(0)
    config = replace(TrainConfig(), cuda_graph=way, **row.settings)
    model = build_model(row.model, row.classes, **row.options).to("cuda").train()
    if config.channels_last:
        model = model.to(memory_format=torch.channels_last)
    state, batch = make_state(config, model, 1000), _batch(row, model.image_size)
    torch.cuda.reset_peak_memory_stats()
    for _ in range(8):
        train_step(config, state, batch)
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(arguments.steps):
        train_step(config, state, batch)
    launched = (time.perf_counter() - start) / arguments.steps
    torch.cuda.synchronize()
    wall = (time.perf_counter() - start) / arguments.steps
    memory = torch.cuda.max_memory_reserved() / 2**30
    busy = busy_seconds(partial(train_step, config, state, batch), rows=15 if arguments.profile else 0)
    print(
        f"{name} | {'graph' if way == 'on' else 'eager'}: {wall * 1e3:.2f} ms, {row.batch / wall:.0f} img/s, host "
        f"{launched * 1e3:.2f} ms, GPU busy {busy * 1e3:.2f} ms ({busy / wall:.0%}), reserved {memory:.1f} GiB, "
        + roofline_share(model, row.batch, wall, TRAINING),
        flush=True,
    )


def _batch(row: Row, side: int) -> Batch:
    generator = torch.Generator().manual_seed(1)
    count = 8 * row.batch
    corner = torch.rand(count, 2, generator=generator) * 0.6
    size = 0.05 + torch.rand(count, 2, generator=generator) * 0.35
    return Batch(
        images=torch.randint(0, 256, (row.batch, 3, side, side), dtype=torch.uint8, generator=generator),
        gt_boxes=torch.cat([corner, corner + size], dim=1),
        gt_labels=torch.randint(1, row.classes, (count,), generator=generator),
        ignore=torch.zeros(count, dtype=torch.bool),
        offsets=torch.arange(0, count + 1, 8),
        image_ids=list(range(row.batch)),
        sizes=torch.full((row.batch, 2), side),
    ).to("cuda")


if __name__ == "__main__":
    main()
