"""Time of a training step of whole detectors on a GPU, eager and as a CUDA graph, and how long the GPU is busy.

python benchmarks/step_times.py [--steps N] [--filter TEXT] [--ways off on] [--cudnn-benchmark] [--profile] [--json FILE]

Each line shows milliseconds and images per second of `train_step`, the fraction of that time in which the GPU is busy
according to torch's profiler, and the rate of arithmetic. Batches are on the GPU and have 8 objects per image.
`--device cpu` times the eager steps of a CPU.
"""

from __future__ import annotations

import argparse
import gc
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import _path  # noqa: F401
import torch

from benchmarks.gpu_busy import busy_seconds
from benchmarks.machine import describe, synchronize
from benchmarks.roofline import TRAINING, rate_of, rate_shown
from benchmarks.saving import saving
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
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--steps", type=int, default=20, help="number of timed steps (default: 20)")
    parser.add_argument("--filter", default="", help="only rows whose name contains this")
    parser.add_argument(
        "--ways", nargs="+", choices=("off", "on"), help="values of --cuda-graph to time (default: both on a GPU)"
    )
    parser.add_argument("--cudnn-benchmark", action="store_true", help="let cuDNN benchmark its algorithms first")
    parser.add_argument("--profile", action="store_true", help="also list the slowest kernels of a GPU")
    parser.add_argument("--json", type=Path, help="write machine, command and all rows to this file")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    ways = arguments.ways or (("off", "on") if device.type == "cuda" else ("off",))
    if device.type != "cuda" and "on" in ways:
        parser.error(f"--ways on needs a GPU, got --device {arguments.device}")
    torch.backends.cudnn.benchmark = arguments.cudnn_benchmark
    rows: list[dict[str, Any]] = []
    report = {"machine": describe(device, torch.get_num_threads()), "rows": rows}
    print(f"{report['machine'].get('gpu', device)}, torch {torch.__version__}")
    with saving(arguments.json, report) as measuring:
        for row in ROWS:
            name = f"{row.model} B{row.batch} " + " ".join(f"{k}={v}" for k, v in row.settings.items())
            for way in ways if arguments.filter in name else ():
                with measuring(f"{name}, --cuda-graph {way}"):
                    rows.append({"name": name, "cuda_graph": way, **_time(row, way, device, arguments)})
                    print(_line(rows[-1]), flush=True)


def _time(row: Row, way: str, device: torch.device, arguments: argparse.Namespace) -> dict[str, Any]:
    """Returns the seconds of a step: its wall time, until its launches return, and in which the GPU is busy."""
    gc.collect()  # frees the previous row
    torch.cuda.empty_cache()
    torch.manual_seed(0)
    config = replace(TrainConfig(), cuda_graph=way, **row.settings)
    model = build_model(row.model, row.classes, **row.options).to(device).train()
    if config.channels_last:
        model = model.to(memory_format=torch.channels_last)
    state, batch = make_state(config, model, 1000), _batch(row, model.image_size).to(device)
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    for _ in range(8 if on_gpu else 1):
        train_step(config, state, batch)
    synchronize(device)
    start = time.perf_counter()
    for _ in range(arguments.steps):
        train_step(config, state, batch)
    launched = (time.perf_counter() - start) / arguments.steps
    synchronize(device)
    wall = (time.perf_counter() - start) / arguments.steps
    found = {"seconds": wall, "host_seconds": launched, "images_per_second": row.batch / wall}
    if on_gpu:
        found["reserved_bytes"] = torch.cuda.max_memory_reserved()
        step = partial(train_step, config, state, batch)
        found["busy_seconds"] = busy_seconds(step, rows=15 if arguments.profile else 0)
    return {**found, **rate_of(model, row.batch, wall, TRAINING)}


def _line(row: dict[str, Any]) -> str:
    wall, text = row["seconds"], ""
    if "busy_seconds" in row:
        busy, reserved = row["busy_seconds"], row["reserved_bytes"] / 2**30
        text = f"GPU busy {busy * 1e3:.2f} ms ({busy / wall:.0%}), reserved {reserved:.1f} GiB, "
    way = "graph" if row["cuda_graph"] == "on" else "eager"
    return (
        f"{row['name']} | {way}: {wall * 1e3:.2f} ms, {row['images_per_second']:.0f} img/s, host "
        f"{row['host_seconds'] * 1e3:.2f} ms, {text}{rate_shown(row)}"
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
    )


if __name__ == "__main__":
    main()
