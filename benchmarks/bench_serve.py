"""`ssd serve` under load: requests per second and latency by the number of clients, in batches and image by image.

Two processes of `ssd serve` with the same weights answer the same requests, one in batches, one with `--batch-size 1`.
Clients on this machine keep a connection each and send a JPEG image per request as soon as they have the last answer. The
answers of both servers are checked before anything is timed: each has the size of its own image, and similar detections.
Rounds of both take turns. The clients run in this process: on a machine with few cores they take time from the servers.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import _path  # noqa: F401
import numpy as np
import torch
from PIL import Image

from benchmarks.detector_pair import PEERS, Pair, similar_detections
from benchmarks.harness import command_line
from benchmarks.http_load import Answer, post_request, run_clients
from benchmarks.machine import copy_bandwidth, describe
from benchmarks.saving import save
from benchmarks.table import Report, Timing, duration, headline, table
from ssd.models import build_model

ROOT = Path(__file__).resolve().parent.parent
BATCHES, SINGLE = "batches", "batch 1"
ROUNDS = 3
IMAGES = 64
MODELS = {"cpu": ("ssdlite320_mobilenet_v3_large",), "cuda": ("ssdlite320_mobilenet_v3_large", "ssd300_vgg16")}
SCORE = 0.005  # each of the images has detections


@dataclass
class Served(Timing):
    """Latency and throughput of a server. Median, low and high are of the latency of all requests."""

    requests_per_second: float = 0.0
    percentile_90: float = 0.0
    percentile_99: float = 0.0
    batches: dict[int, int] = field(default_factory=dict)
    """Batch size -> number of images that ran in such batches."""


def write_checkpoint(name: str, path: Path) -> None:
    """Writes a checkpoint of a model whose scores are spread like those of a trained one."""
    torch.manual_seed(0)
    is_small = name == "ssd_tiny"
    model = (
        build_model(name, 3, image_size=64, width=4, levels=2)
        if is_small
        else Pair(name, torch.device("cpu"), training=False).ours
    )
    classes = [f"class {number}" for number in range(1, 3 if is_small else 91)]
    torch.save({"build_args": model.build_args, "classes": classes, "model": model.state_dict()}, path)


def make_requests(count: int, width: int) -> tuple[list[bytes], list[tuple[int, int]]]:
    """Returns requests with an image each, and the width and height of the images, which all differ."""
    random = np.random.default_rng(0)
    requests, sizes = [], []
    for number in range(count):
        sizes.append((width, width * 3 // 4 - number))
        content = io.BytesIO()
        coarse = Image.fromarray(random.integers(0, 256, (12, 16, 3), dtype=np.uint8))
        coarse.resize(sizes[-1], Image.Resampling.BICUBIC).save(content, "JPEG", quality=85)
        image = base64.b64encode(content.getvalue()).decode()
        requests.append(post_request(json.dumps({"images": [image], "score_threshold": SCORE}).encode()))
    return requests, sizes


@contextmanager
def started(checkpoint: Path, options: Sequence[str], threads: int) -> Iterator[int]:
    """Runs `ssd serve` in a process of its own; yields its port."""
    command = [sys.executable, "-m", "ssd", "serve", str(checkpoint), "--port", "0", *options]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        found = re.search(r" on http://\S*:(\d+) ", process.stdout.readline())
        if found is None:
            raise SystemExit("the server does not start")
        yield int(found[1])
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def check(answers: Sequence[Answer], expected: Sequence[Answer], sizes: Sequence[tuple[int, int]]) -> None:
    """Ends the program unless all answers belong to their images and agree with those of the other server."""
    by_image = {answer.request: answer for answer in expected}
    for answer in answers:
        found, other = (json.loads(each.content)["results"][0] for each in (answer, by_image[answer.request]))
        if answer.status != 200 or (found["width"], found["height"]) != sizes[answer.request]:
            raise SystemExit(f"image {answer.request} has a wrong answer: {answer.status} {answer.content[:200]!r}")
        similar_detections([_tensors(found)], [_tensors(other)])


def _tensors(result: dict[str, Any]) -> dict[str, torch.Tensor]:
    rows = result["detections"]
    labels = [int(row["label"].rpartition(" ")[2]) for row in rows]
    boxes, scores = [row["box"] for row in rows], [row["score"] for row in rows]
    return {"boxes": torch.tensor(boxes), "scores": torch.tensor(scores), "labels": torch.tensor(labels)}


def summarize(answers: Sequence[Answer], seconds: float) -> Served:
    """Returns latency and throughput of all rounds of a server."""
    if bad := [answer for answer in answers if answer.status != 200]:
        raise SystemExit(f"{len(bad)} requests failed, the first with {bad[0].status}: {bad[0].content[:200]!r}")
    latencies = sorted(answer.seconds for answer in answers)
    low, median, high = statistics.quantiles(latencies, n=4)
    percentiles = statistics.quantiles(latencies, n=100)
    batches = Counter(json.loads(answer.content)["results"][0]["batch"] for answer in answers)
    rate, p90, p99 = len(answers) / seconds, percentiles[89], percentiles[98]
    # an image in a batch of n is 1/n of that batch
    mean = len(answers) / sum(count / size for size, count in batches.items())
    note = f"{rate:.0f} requests/s, p90 {duration(p90)}, p99 {duration(p99)}, {mean:.1f} images a batch"
    served = Served(median, low, high, len(answers), note=note, requests_per_second=rate)
    served.percentile_90, served.percentile_99, served.batches = p90, p99, dict(sorted(batches.items()))
    return served


def measure(
    ports: dict[str, int], requests: Sequence[bytes], sizes: Sequence[tuple[int, int]], clients: int, seconds: float
) -> dict[str, Timing]:
    """Checks the answers of both servers, then times them in turns."""
    expected, _ = run_clients(ports[SINGLE], requests, 1, 0.0)
    for port in ports.values():
        check(run_clients(port, requests, clients, 0.0)[0], expected, sizes)
    answers: dict[str, list[Answer]] = {name: [] for name in ports}
    total = dict.fromkeys(ports, 0.0)
    for _ in range(ROUNDS):
        for name, port in ports.items():
            found, took = run_clients(port, requests, clients, seconds)
            answers[name] += found
            total[name] += took
    timings = {name: summarize(answers[name], total[name]) for name in ports}
    for timing in timings.values():
        timing.ratio = timing.requests_per_second / timings[SINGLE].requests_per_second
    return dict(timings)


def cases(arguments: argparse.Namespace) -> Iterator[tuple[str, dict[str, Timing]]]:
    """Starts both servers for each model; yields names and timings for each number of clients."""
    models, counts = arguments.models or MODELS[torch.device(arguments.device).type], arguments.clients
    requests, sizes = make_requests(IMAGES, 640)
    if arguments.quick:
        models, counts = ("ssd_tiny",), [8]
        requests, sizes = make_requests(8, 64)
    limit = str(max(*counts, IMAGES) + 16)
    limits = ["--max-waiting", limit, "--max-connections", limit, "--timeout", "300", "--device", arguments.device]
    sizes_of_batch = {BATCHES: arguments.batch_size, SINGLE: 1}
    for model in models:
        with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
            checkpoint = Path(folder) / f"{model}.pt"
            write_checkpoint(model, checkpoint)

            def start(size: int, checkpoint: Path = checkpoint, stack: ExitStack = stack) -> int:
                options = [*limits, "--batch-size", str(size)]
                return stack.enter_context(started(checkpoint, options, arguments.threads))

            with ThreadPoolExecutor() as pool:
                ports = dict(zip(sizes_of_batch, pool.map(start, sizes_of_batch.values()), strict=True))
            for clients in counts:
                name = f"serve, {model}, {clients} clients"
                yield name, measure(ports, requests, sizes, clients, 0.1 if arguments.quick else arguments.seconds)


def main() -> None:
    """Runs the benchmark."""
    title = __doc__.splitlines()[0]
    parser = command_line(title)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 16, 256], help="numbers of clients at once")
    parser.add_argument(
        "--models", nargs="+", metavar="NAME", choices=sorted(PEERS), help="models (default: by device)"
    )
    parser.add_argument("--batch-size", type=int, default=8, help="max images per batch (default: 8)")
    parser.set_defaults(seconds=5.0)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    report = Report(describe(device, arguments.threads), copy_bandwidth(device))
    print(f"{title}\n{headline(report)}\n")
    for name, timings in cases(arguments):
        report.cases[name] = timings
        print(table(name, timings), flush=True)
        save(arguments.json, report)  # after each case: an interrupted run keeps its finished cases


if __name__ == "__main__":
    main()
