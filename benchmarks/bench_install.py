"""`ssd_ops.install`: other libraries' detectors and helpers as they are, then with torchvision's ops replaced.

python benchmarks/bench_install.py [--quick] [--json FILE]

Models have random weights and low score thresholds, so that their NMS has as many boxes as in an evaluation. Libraries
that are not installed are skipped: pip install ultralytics supervision sahi effdet rfdetr. Both results are compared
before anything is timed, and both states are timed in turns.
"""

from __future__ import annotations

import importlib
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import _path  # noqa: F401
import numpy as np
import torch
import torchvision
from torch import nn

import ssd_ops
from benchmarks.harness import command_line
from benchmarks.inputs import clustered_boxes, distinct_scores
from benchmarks.machine import copy_bandwidth, describe
from benchmarks.saving import saving
from benchmarks.table import Report, Timing, headline, table

LIBRARIES = ("ultralytics", "supervision", "sahi", "effdet", "rfdetr")
BEFORE, AFTER = "before", "installed"


@dataclass
class Call:
    """One call of a library, which looks its functions up again each time."""

    name: str
    run: Callable[[], Any]


def calls(quick: bool) -> Iterator[Call]:
    """Yields the calls of the libraries that are installed."""
    generator = torch.Generator().manual_seed(0)
    yield from _torchvision(quick)
    for make in (_ultralytics, _supervision, _sahi, _effdet, _rfdetr):
        try:
            yield from make(300 if quick else 5000, generator)
        except ImportError as error:
            print(f"skipped: {make.__name__.strip('_')} ({error})\n")


def _torchvision(quick: bool) -> Iterator[Call]:
    models = torchvision.models.detection
    options: dict[str, Any] = {"weights": None, "weights_backbone": None, "num_classes": 5 if quick else 91}
    torch.manual_seed(0)
    side = 64 if quick else 320
    images = [torch.rand(3, side, side) for _ in range(2 if quick else 4)]
    ssdlite = _with_varied_scores(models.ssdlite320_mobilenet_v3_large(**options, score_thresh=0.0), images)
    yield Call(f"torchvision: SSDlite320, {len(images)} images", lambda: ssdlite(images))
    if not quick:
        rcnn = models.fasterrcnn_mobilenet_v3_large_320_fpn(**options, box_score_thresh=0.0)
        rcnn = _with_varied_scores(rcnn, images)
        yield Call(f"torchvision: Faster R-CNN MobileNetV3 320, {len(images)} images", lambda: rcnn(images))


def _with_varied_scores(model: nn.Module, images: list[torch.Tensor]) -> nn.Module:
    """Gives BatchNorm the statistics of the images and the last layers larger weights: otherwise all scores are equal."""
    model.eval()
    norms = [layer for layer in model.modules() if isinstance(layer, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
        norm.train()
    with torch.inference_mode():
        model(images)
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1 and name.startswith(("head.", "rpn.head.", "roi_heads.box_predictor.")):
            fan_in = parameter[0].numel()
            nn.init.normal_(parameter, std=0.3 / fan_in**0.5)
    return model.eval()


def _ultralytics(count: int, generator: torch.Generator) -> Iterator[Call]:
    nms = importlib.import_module("ultralytics.utils.nms")
    images, boxes = 2, clustered_boxes(count, 50, generator)
    scores = distinct_scores(images * 80 * count, generator).view(images, 80, count)
    scores = torch.where(scores > 0.97, scores, 0.0)  # few candidates, as of a trained model
    sizes = torchvision.ops.box_convert(boxes, "xyxy", "cxcywh").T.expand(images, 4, count)
    prediction = torch.cat([sizes, scores], dim=1)
    options: dict[str, Any] = {"conf_thres": 0.001, "iou_thres": 0.7, "multi_label": True}
    yield Call(
        f"ultralytics: non_max_suppression, {images} images of {count} boxes, 80 classes",
        lambda: nms.non_max_suppression(prediction.clone(), **options),
    )
    order = distinct_scores(count, generator)
    yield Call(f"ultralytics: TorchNMS.nms, {count} boxes", lambda: nms.TorchNMS.nms(boxes, order, 0.5))


def _supervision(count: int, generator: torch.Generator) -> Iterator[Call]:
    supervision = importlib.import_module("supervision")
    detections = supervision.Detections(
        clustered_boxes(count, 50, generator).numpy(),
        confidence=distinct_scores(count, generator).numpy(),
        class_id=torch.randint(0, 80, (count,), generator=generator).numpy(),
    )
    yield Call(f"supervision: Detections.with_nms, {count} boxes, 80 classes", lambda: detections.with_nms(0.5).xyxy)


def _sahi(count: int, generator: torch.Generator) -> Iterator[Call]:
    backend = importlib.import_module("sahi.postprocess._torchvision_backend")
    boxes, scores = clustered_boxes(count, 200, generator), distinct_scores(count, generator)
    rows = torch.cat([boxes, scores[:, None], torch.zeros(count, 1)], dim=1).numpy()
    yield Call(f"sahi: nms_torchvision, {count} boxes", lambda: backend.nms_torchvision(rows, "IOU", 0.5))


def _effdet(count: int, generator: torch.Generator) -> Iterator[Call]:
    anchors = importlib.import_module("effdet.anchors")
    boxes = clustered_boxes(count, 50, generator)[:, [1, 0, 3, 2]]
    logits = torch.logit(0.999 * distinct_scores(count, generator))[:, None]
    deltas, indices = torch.zeros(count, 4), torch.arange(count)
    classes = torch.randint(0, 90, (count,), generator=generator)
    yield Call(
        f"effdet: generate_detections, {count} boxes, 90 classes",
        lambda: anchors.generate_detections(logits, deltas, boxes, indices, classes, None, None),
    )


def _rfdetr(count: int, generator: torch.Generator) -> Iterator[Call]:
    matching = importlib.import_module("rfdetr.evaluation.matching")
    predictions, targets = [], []
    for _ in range(count // 100):
        boxes, labels = clustered_boxes(300, 20, generator), torch.randint(0, 3, (300,), generator=generator)
        predictions.append({"boxes": boxes, "scores": distinct_scores(300, generator), "labels": labels})
        targets.append({"boxes": boxes[:20] + 1, "labels": labels[:20]})
    yield Call(
        f"rfdetr: build_matching_data, {len(targets)} images of 300 boxes",
        lambda: matching.build_matching_data(predictions, targets),
    )


def measure(call: Call, seconds: float) -> dict[str, Timing]:
    """Compares the results of both states, then times them in turns."""
    with torch.inference_mode():
        ssd_ops.uninstall()
        expected = call.run()
        ssd_ops.install()
        check(call.run(), expected, call.name)
        samples: dict[str, list[float]] = {BEFORE: [], AFTER: []}
        deadline = time.perf_counter() + 2 * seconds
        while len(samples[AFTER]) < 3 or time.perf_counter() < deadline:
            for state, change in ((BEFORE, ssd_ops.uninstall), (AFTER, ssd_ops.install)):
                change()
                start = time.perf_counter()
                call.run()
                samples[state].append(time.perf_counter() - start)
        ssd_ops.uninstall()
    timings = {}
    for state, values in samples.items():
        low, median, high = statistics.quantiles(values, n=4)
        timings[state] = Timing(median, low, high, len(values))
    for timing in timings.values():
        timing.ratio = timings[BEFORE].median / timing.median
    return timings


def check(found: Any, expected: Any, where: str) -> None:
    """Ends the program if two results differ in any value."""
    if isinstance(expected, dict):
        same = found.keys() == expected.keys()
        pairs = [(found.get(key), value) for key, value in expected.items()]
    elif isinstance(expected, (list, tuple)):
        same, pairs = len(found) == len(expected), list(zip(found, expected, strict=False))
    else:
        as_array = np.asarray
        same, pairs = np.array_equal(as_array(found), as_array(expected)), []
    if not same:
        raise SystemExit(f"{where}: the results differ, nothing is timed")
    for one, other in pairs:
        check(one, other, where)


def versions() -> dict[str, str]:
    """Returns the versions of the libraries that are installed."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def main() -> None:
    """Runs the benchmark."""
    title = __doc__.splitlines()[0]
    arguments = command_line(title).parse_args()
    if arguments.device != "cpu":
        raise SystemExit("this benchmark runs on the CPU: --device cpu")
    torch.set_num_threads(arguments.threads)
    device = torch.device("cpu")
    machine = {**describe(device, arguments.threads), "libraries": versions()}
    report = Report(machine, copy_bandwidth(device))
    print(f"{title}\n{headline(report)}\n")
    with saving(arguments.json, report) as measuring:
        for call in calls(arguments.quick):
            if arguments.filter in call.name:
                with measuring(call.name):
                    report.cases[call.name] = measure(call, 0.02 if arguments.quick else arguments.seconds)
                    print(table(call.name, report.cases[call.name]), flush=True)


if __name__ == "__main__":
    main()
