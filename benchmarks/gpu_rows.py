"""Rows of bench_ops_gpu.py: each op at the sizes of real detectors, with its bytes and its goal on an H100."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import ssd_ops
from benchmarks import bench_detect
from benchmarks.inputs import (
    clustered_boxes,
    distinct_scores,
    ground_truths,
    ssd300_priors,
    trained_logits,
    uniform_boxes,
)

Generator = torch.Generator
DETECT = {
    "score_threshold": bench_detect.SCORE_THRESHOLD,
    "iou_threshold": bench_detect.IOU_THRESHOLD,
    "candidates_per_class": bench_detect.CANDIDATES_PER_CLASS,
    "max_detections": bench_detect.MAX_DETECTIONS,
}


def _close(result: Any, expected: Any) -> None:
    torch.testing.assert_close(result, expected, rtol=2e-2, atol=1e-3)


def _equal(result: Any, expected: Any) -> None:
    torch.testing.assert_close(result, expected, rtol=0, atol=0)


def _detections(result: Any, expected: Any) -> None:
    bench_detect.check(ssd_ops.Detections(*result), ssd_ops.Detections(*expected))


@dataclass
class Row:
    """One op at one size."""

    name: str
    make: Callable[[Generator], tuple[Any, ...]]
    """Creates the inputs on the CPU."""
    call: Callable[..., Any]
    bytes_moved: int = 0
    """Bytes that must be read or written at least once; 0 if the op is not memory-bound."""
    goal: float | None = None
    """Goal on an H100 in microseconds, for a graph replay if the op can be captured, else for an eager call."""
    graphed: bool = True
    check: Callable[[Any, Any], None] = _close
    """Raises AssertionError if the result of the GPU differs from that of the CPU."""


def rows(quick: bool) -> Iterator[Row]:
    """Yields all rows, or one small row per op."""
    yield from _detect(quick)
    yield from _select(quick)
    yield from _loss(quick)
    yield from _match(quick)
    yield from _boxes(quick)
    yield from _nms(quick)
    yield _render()


def _detect(quick: bool) -> Iterator[Row]:
    priors = ssd300_priors()
    count = len(priors)
    goals = {("typical", 1, 91): 10, ("typical", 32, 91): 44, ("typical", 32, 21): 20, ("worst", 32, 91): 90}
    goals |= {("worst", 128, 91): 330, ("typical", 128, 91): None}
    for (kind, batch, classes), goal in list(goals.items())[: 1 if quick else None]:
        for dtype in (torch.float32, torch.bfloat16):
            if dtype == torch.bfloat16 and (kind, batch, classes) != ("typical", 32, 91):
                continue

            def make(
                g: Generator, k: str = kind, b: int = batch, c: int = classes, d: torch.dtype = dtype
            ) -> tuple[Any, ...]:
                random = k == "worst"
                logits = torch.randn(b, count, c, generator=g) if random else trained_logits(b, count, c, 200, g)
                return (torch.randn(b, count, 4, generator=g) * 0.5).to(d), logits.to(d), priors

            yield Row(
                f"detect {kind} {batch} x {count} x {classes} {_short(dtype)}",
                make,
                lambda loc, logits, p: tuple(ssd_ops.detect(loc, logits, p, **DETECT)),
                dtype.itemsize * batch * count * (classes + 4),
                goal if dtype == torch.float32 else 28,
                check=_detections,
            )


def _select(quick: bool) -> Iterator[Row]:
    count = len(ssd300_priors())
    batch = 1 if quick else 32
    yield Row(
        f"multiclass_nms typical {batch} x {count} x 91",
        lambda g: (
            uniform_boxes(batch * count, g).view(batch, count, 4),
            trained_logits(batch, count, 91, 200, g).softmax(-1),
        ),
        lambda boxes, scores: tuple(ssd_ops.multiclass_nms(boxes, scores, **DETECT)),
        4 * batch * count * 91,
        45,
        check=_detections,
    )
    images, boxes = (1, 100) if quick else (8, 1000)
    yield Row(
        f"soft_nms typical {images} x {boxes} x 91",
        lambda g: (
            uniform_boxes(images * boxes, g).view(images, boxes, 4),
            trained_logits(images, count, 91, 200, g).softmax(-1)[:, :boxes].contiguous(),
        ),
        lambda boxes, scores: tuple(
            ssd_ops.soft_nms(boxes, scores, score_threshold=bench_detect.SCORE_THRESHOLD, max_detections=100)[:4]
        ),
        goal=12,
        check=_detections,
    )


def _short(dtype: torch.dtype) -> str:
    return {torch.float32: "f32", torch.bfloat16: "bf16"}[dtype]


def _packed_ground_truths(
    batch: int, objects: int, classes: int, generator: Generator
) -> tuple[Tensor, Tensor, Tensor]:
    boxes, labels = ground_truths(batch, objects, generator)
    return torch.cat(boxes), torch.cat(labels) % (classes - 1) + 1, torch.arange(0, (batch + 1) * objects, objects)


def _loss(quick: bool) -> Iterator[Row]:
    priors = ssd300_priors()
    sizes = {(32, 91, torch.float32): 82, (32, 91, torch.bfloat16): 45, (32, 21, torch.float32): 26}
    sizes |= {(32, 21, torch.bfloat16): 18}
    for (batch, classes, dtype), goal in [((1, 21, torch.float32), None)] if quick else sizes.items():

        def make(g: Generator, b: int = batch, c: int = classes, d: torch.dtype = dtype) -> tuple[Any, ...]:
            boxes, labels, offsets = _packed_ground_truths(b, 8, c, g)
            m = ssd_ops.match_priors(boxes, labels, priors, offsets=offsets, rule="last")
            loc, logits = (torch.randn(b, len(priors), n, generator=g).to(d).requires_grad_() for n in (4, c))
            return loc, logits, m.loc_targets, m.labels

        numbers = batch * len(priors) * (classes + 4)
        name = f"multibox_loss %s {batch} x {len(priors)} x {classes} {_short(dtype)}"
        yield Row(name % "forward", make, _losses, dtype.itemsize * numbers)
        yield Row(name % "f + b", make, _gradients, 2 * dtype.itemsize * numbers, goal)


def _losses(loc: Tensor, logits: Tensor, targets: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
    return ssd_ops.multibox_loss(loc.detach(), logits.detach(), targets, labels)


def _gradients(loc: Tensor, logits: Tensor, targets: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(sum(ssd_ops.multibox_loss(loc, logits, targets, labels)), (loc, logits))


def _match(quick: bool) -> Iterator[Row]:
    priors, goals = ssd300_priors(), {8: (6, 9), 100: (15, 22), 1000: (110, 160)}
    for objects in (8,) if quick else (8, 100, 1000):
        for rule, goal in zip(("last", "greedy"), goals[objects], strict=True):
            yield Row(
                f"match_priors 32 x {objects} {rule}",
                lambda g, n=objects: (*_packed_ground_truths(32, n, 91, g), priors),
                lambda boxes, labels, offsets, p, r=rule: tuple(
                    ssd_ops.match_priors(boxes, labels, p, offsets=offsets, rule=r)
                ),
                32 * len(priors) * 32,
                goal,
            )


def _boxes(quick: bool) -> Iterator[Row]:
    priors = ssd300_priors()
    rows, columns = (100, 8732) if quick else (2000, 8732)
    for name, goal in (("box_iou", 25), ("generalized_box_iou", 34), ("complete_box_iou", 48)):
        yield Row(
            f"{name} {rows} x {columns}",
            lambda g: (uniform_boxes(rows, g), uniform_boxes(columns, g)),
            getattr(ssd_ops, name),
            4 * rows * columns,
            goal,
        )
    deltas = lambda g: (torch.randn(32, len(priors), 4, generator=g) * 0.1, priors)  # noqa: E731
    boxes = lambda g: (priors.expand(32, -1, -1) + 0.01, priors)  # noqa: E731
    yield Row("decode_boxes 32 x 8732", deltas, ssd_ops.decode_boxes, 32 * len(priors) * 32, 3.8)
    yield Row("encode_boxes 32 x 8732", boxes, ssd_ops.encode_boxes, 32 * len(priors) * 32, 3.8)


def _nms(quick: bool) -> Iterator[Row]:
    sizes = {("uniform", 8): 25, ("uniform", 1000): 30, ("uniform", 10_000): 75, ("uniform", 100_000): 300}
    sizes |= {("clustered", 1000): 30, ("clustered", 10_000): 60, ("clustered", 100_000): 120}
    for (kind, count), goal in list(sizes.items())[: 1 if quick else None]:

        def make(g: Generator, k: str = kind, n: int = count) -> tuple[Tensor, Tensor]:
            return uniform_boxes(n, g) if k == "uniform" else clustered_boxes(n, 50, g), distinct_scores(n, g)

        yield Row(f"nms {kind} {count} boxes", make, lambda b, s: ssd_ops.nms(b, s, 0.5), 0, goal, False, _equal)
    for count, goal in () if quick else ((1000, 30), (10_000, 60), (36_000, 110)):
        yield Row(
            f"batched_nms {count} boxes, 90 classes",
            lambda g, n=count: (
                clustered_boxes(n, 50, g),
                distinct_scores(n, g),
                torch.randint(0, 90, (n,), generator=g),
            ),
            lambda b, s, i: ssd_ops.batched_nms(b, s, i, 0.5),
            goal=goal,
            graphed=False,
            check=_equal,
        )


def _render() -> Row:
    height, width, count = 375, 500, 32

    def make(g: Generator) -> tuple[Tensor, ...]:
        pixels = torch.randint(0, 256, (count * 3 * height * width,), generator=g, dtype=torch.uint8)
        edges = torch.rand(count, 4, generator=g) * torch.tensor([150.0, 100, 150, 150])
        crops = edges + torch.tensor([0.0, 0, 350, 225])
        offsets = torch.arange(count) * 3 * height * width
        return pixels, crops, offsets, torch.tensor([[height, width]] * count), torch.rand(count, generator=g) < 0.5

    return Row(
        f"render_images {count} of {width} x {height} to 300",
        make,
        lambda pixels, crops, offsets, sizes, flip: ssd_ops.render_images(
            pixels, crops, 300, offsets=offsets, sizes=sizes, flip=flip
        ),
        count * 3 * (height * width + 4 * 300 * 300),
        30,
    )
