"""Host overhead of every op: inputs so small that Python, the dispatcher and autograd determine the time of a call.

This also holds on a GPU, where small kernels are bound by the host. Goals are 15 us for a forward call, and for forward and
backward at most 40 us more than `torch.mul`, which is in the table for comparison.

python benchmarks/bench_overhead.py [--quick] [--json FILE]
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import _path  # noqa: F401
import torch
import torchvision.ops
from torch import Tensor

import ssd_ops
from benchmarks.harness import Case, main

ROWS, CLASSES = 8, 3
Call = Callable[..., Any]


def cases(device: torch.device, quick: bool) -> list[Case]:
    """Returns a forward case of every op, and a case with backward of every op that has a gradient kernel."""
    found = []
    for name, (call, inputs, leaves) in small_calls().items():
        found.append(_case(f"{name} forward", call, inputs, 0))
        if leaves:
            found.append(_case(f"{name} forward + backward", call, inputs, leaves))
    return found


def small_calls() -> dict[str, tuple[Call, tuple[Tensor, ...], int]]:
    """Returns for each op a call, its inputs, and how many of the inputs require a gradient."""
    boxes = torch.tensor([[i, i, i + 4, i + 3] for i in range(ROWS)], dtype=torch.float32) / 10
    other, scores, loc = boxes + 0.03, torch.linspace(0.1, 0.9, ROWS), torch.zeros(1, ROWS, 4)
    logits = (1.7 * torch.arange(ROWS * CLASSES)).cos().view(1, ROWS, CLASSES)
    labels = torch.arange(ROWS) % CLASSES
    ground_truths = boxes[:2], torch.ones(2, dtype=torch.int64), boxes, torch.tensor([0, 2])
    images = torch.zeros(48, dtype=torch.uint8), loc[0, :1], torch.tensor([0]), torch.tensor([[4, 4]])
    hard = {"score_threshold": 0.1, "iou_threshold": 0.5, "candidates_per_class": 4, "max_detections": 4}
    soft = {"score_threshold": 0.1, "max_detections": 4}

    def pairs(name: str) -> Call:
        return lambda module, a, b: getattr(module, name)(a, b)

    metrics = ("box_iou", "generalized_box_iou", "distance_box_iou", "complete_box_iou")
    return {
        "torch.mul": (lambda module, a, b: a * b, (boxes, other), 2),
        **{name: (pairs(name), (boxes, other), 2) for name in metrics},
        **{name: (pairs(name), (boxes, other), 1) for name in ("encode_boxes", "decode_boxes")},
        "multibox_loss": (lambda m, *a: m.multibox_loss(*a), (loc, logits, loc + 0.1, labels[None]), 2),
        "match_priors": (lambda m, a, b, c, d: m.match_priors(a, b, c, offsets=d), ground_truths, 0),
        "nms": (lambda m, a, b: m.nms(a, b, 0.5), (boxes, scores), 0),
        "batched_nms": (lambda m, a, b, c: m.batched_nms(a, b, c, 0.5), (boxes, scores, labels), 0),
        "multiclass_nms": (lambda m, a, b: m.multiclass_nms(a, b, **hard), (boxes[None], logits.sigmoid()), 0),
        "soft_nms": (lambda m, a, b: m.soft_nms(a, b, **soft), (boxes[None], logits.sigmoid()), 0),
        "detect": (lambda m, *a: m.detect(*a, max_detections=4), (loc, logits, boxes), 0),
        "render_images": (lambda m, a, b, c, d: m.render_images(a, b, 4, offsets=c, sizes=d), images, 0),
    }


def _case(name: str, call: Call, inputs: tuple[Tensor, ...], leaves: int) -> Case:
    def make(generator: torch.Generator, device: torch.device) -> tuple[Any, ...]:
        on_device = [tensor.to(device, copy=True) for tensor in inputs]
        return tuple(tensor.requires_grad_(i < leaves) for i, tensor in enumerate(on_device))

    def of(module: ModuleType) -> Call:
        if not leaves:
            return lambda *tensors: call(module, *tensors)

        def with_backward(*tensors: Tensor) -> Any:
            results = call(module, *tensors)
            return torch.autograd.grad(results, tensors[:leaves], [torch.ones_like(r) for r in as_tuple(results)])

        return with_backward

    candidates = {"compiled": of(ssd_ops), "reference": of(ssd_ops.reference)}
    if hasattr(torchvision.ops, name.split()[0]):
        candidates["torchvision"] = of(torchvision.ops)
    return Case(name, make, candidates, _check, input_sets=2)


def as_tuple(results: Any) -> tuple[Tensor, ...]:
    """Returns the tensors of a result."""
    return (results,) if isinstance(results, Tensor) else tuple(results)


def _check(result: Any, expected: Any) -> None:
    for value, target in zip(as_tuple(result), as_tuple(expected), strict=True):
        torch.testing.assert_close(value, target, rtol=1e-4, atol=1e-5)


if __name__ == "__main__":
    main(__doc__.splitlines()[0], cases, threads=1)
