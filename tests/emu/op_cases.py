"""One or more small calls of every op, shared by the tests of schedules and of the sanitized and checked builds.

    python -m tests.emu.op_cases          runs all of them on the emulated kernels of SSD_OPS_EMU_VARIANT
    python -m tests.emu.op_cases --cuda   runs them on a GPU, for compute-sanitizer
    python -m tests.emu.op_cases --cuda nms batched_nms     those of some ops

Sizes are just above those of warps and tiles, so that the last one is partial; scores and boxes have ties.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import torch

import ssd_ops
from tests.emu import emulated_ops
from tests.ops.conftest import Implementation
from tests.ops.levels import as_levels

CELLS = ((7, 9, 3), (5, 5, 4), (1, 11, 1))  # 300 priors
Case = Callable[[], "torch.Tensor | tuple[torch.Tensor, ...]"]


def boxes(n: int, seed: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Returns [n, 4] xyxy boxes within 0 .. 1 on a coarse grid, so that many are equal or touch."""
    g = torch.Generator().manual_seed(seed)
    low = torch.randint(0, 12, (n, 2), generator=g)
    size = torch.randint(0, 6, (n, 2), generator=g)
    return (torch.cat([low, low + size], 1) / 18.0).to(dtype)


def numbers(*shape: int, seed: int, levels: int = 16) -> torch.Tensor:
    """Returns float numbers in -2 .. 2 of which many are equal."""
    g = torch.Generator().manual_seed(seed)
    return torch.randint(-levels, levels + 1, shape, generator=g) * (2.0 / levels)


def with_gradients(function: Callable[..., Any], *inputs: torch.Tensor, **options: Any) -> tuple[torch.Tensor, ...]:
    """Returns the outputs and the gradients of their weighted sum."""
    leaves = [t.clone().requires_grad_() for t in inputs]
    outputs = function(*leaves, **options)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    total = sum((out * numbers(*out.shape, seed=i)).sum() for i, out in enumerate(outputs))
    assert isinstance(total, torch.Tensor)
    return (*outputs, *torch.autograd.grad(total, leaves))


def unmeasured(case: Case) -> Case:
    """Returns a case with the kernels of csrc/cuda/common/unmeasured.h; on a GPU its environment decides."""

    def call() -> torch.Tensor | tuple[torch.Tensor, ...]:
        on_gpu = isinstance(ssd_ops, Implementation)
        with mock.patch.dict(os.environ, {} if on_gpu else {"SSD_OPS_UNMEASURED_KERNELS": "1"}):
            return case()

    return call


def _iou_and_codec() -> Iterator[tuple[str, Case]]:
    for dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16):
        yield "box_iou", lambda dtype=dtype: ssd_ops.box_iou(boxes(65, 1, dtype), boxes(130, 2, dtype))
    yield "box_iou", lambda: ssd_ops.box_iou(boxes(66, 1).reshape(2, 33, 4), boxes(70, 2).reshape(2, 35, 4))
    for name in ("box_iou", "generalized_box_iou", "distance_box_iou", "complete_box_iou"):
        yield name, lambda name=name: with_gradients(getattr(ssd_ops, name), boxes(33, 1), boxes(65, 2))
    for code in ("center_size", "corner", "corner_size"):
        priors = boxes(70, 3) + torch.tensor([0.0, 0.0, 0.1, 0.1])
        data = boxes(140, 4).reshape(2, 70, 4) + torch.tensor([0.0, 0.0, 0.1, 0.1])
        for name in ("encode_boxes", "decode_boxes"):
            yield name, lambda n=name, c=code, d=data, p=priors: with_gradients(getattr(ssd_ops, n), d, p, code_type=c)


def _training() -> Iterator[tuple[str, Case]]:
    counts = [0, 3, 40, 1]
    truth = [boxes(n, 10 + i) for i, n in enumerate(counts)]
    labels = [torch.arange(n) % 5 + 1 for n in counts]
    ignore = [torch.arange(n) % 3 == 1 for n in counts]
    priors = boxes(300, 5)
    for rule in ("greedy", "last", "none"):
        for skip in (None, ignore):
            yield (
                "match_priors",
                lambda r=rule, s=skip: tuple(ssd_ops.match_priors(truth, labels, priors, ignore=s, rule=r)),
            )
    many, names = boxes(70, 15), torch.arange(70) + 1  # several warps per tile of priors, several blocks per image
    for rule in ("greedy", "last"):
        yield "match_priors", lambda r=rule: tuple(ssd_ops.match_priors([many], [names], priors[:100], rule=r))
    targets = numbers(3, 300, 4, seed=6)
    wanted = torch.randint(-1, 40, (3, 300), generator=torch.Generator().manual_seed(7))
    wanted[wanted > 6] = 0
    wanted[2] = 0
    for normalizer, least, mining in (("batch", 0, "image"), ("image", 5, "image"), ("batch_size", 5, "batch")):
        rules = {"normalizer": normalizer, "min_negatives": least, "mining": mining}
        yield (
            "multibox_loss",
            lambda r=rules: with_gradients(
                lambda loc, logits: ssd_ops.multibox_loss(loc, logits, targets, wanted, **r),
                numbers(3, 300, 4, seed=8),
                numbers(3, 300, 7, seed=9),
            ),
        )
    yield (
        "multibox_loss_levels",
        lambda: with_gradients(
            lambda loc, logits: ssd_ops.multibox_loss(as_levels(loc, CELLS), as_levels(logits, CELLS), targets, wanted),
            numbers(3, 300, 4, seed=8),
            numbers(3, 300, 7, seed=9),
        ),
    )
    wide = [numbers(4, 3300, 4, seed=20), numbers(4, 3300, 2, seed=21, levels=64)]  # several blocks mine the batch
    rows, some = numbers(4, 3300, 4, seed=22), (numbers(4, 3300, seed=23) > 1.8).long()
    for least in (0, 2000):
        yield (
            "multibox_loss",
            lambda k=least: with_gradients(
                lambda loc, logits: ssd_ops.multibox_loss(loc, logits, rows, some, mining="batch", min_negatives=k),
                *wide,
            ),
        )


def _detection() -> Iterator[tuple[str, Case]]:
    some, scores = boxes(200, 11), numbers(200, seed=12).abs() / 2
    yield "nms", lambda: ssd_ops.nms(some, scores, 0.4)
    crowd, crowd_scores = boxes(12300, 17), numbers(12300, seed=18)  # enough for the order of cells
    yield "nms", lambda: ssd_ops.nms(crowd, crowd_scores, 0.4)
    yield "nms", lambda: ssd_ops.nms(crowd[:2100] * 40 % 1, crowd_scores[:2100], 0.4)  # all at once
    yield "batched_nms", lambda: ssd_ops.batched_nms(some, scores, torch.arange(200) % 3, 0.4)
    spread, spread_scores, idxs = crowd[:2100] * 40 % 1, crowd_scores[:2100], torch.arange(2100) % 40 - 3
    yield "nms", unmeasured(lambda: ssd_ops.nms(spread, spread_scores, 0.4))
    yield "batched_nms", unmeasured(lambda: ssd_ops.batched_nms(spread, spread_scores, idxs, 0.4))
    ranged, ranged_scores, ranged_idxs = crowd[:10300] * 40 % 7, crowd_scores[:10300], torch.arange(10300) % 3 * 2**40
    yield "nms", unmeasured(lambda: ssd_ops.nms(ranged, ranged_scores, 0.4))  # range after range
    yield "batched_nms", unmeasured(lambda: ssd_ops.batched_nms(ranged, ranged_scores, ranged_idxs, 0.4))
    many, class_scores = some.reshape(2, 100, 4), numbers(2, 100, 4, seed=13).abs() / 2
    limits = {"score_threshold": 0.1, "max_detections": 30}
    for per_class in (10, 90):
        yield (
            "multiclass_nms",
            lambda k=per_class: tuple(
                ssd_ops.multiclass_nms(many, class_scores, iou_threshold=0.4, candidates_per_class=k, **limits)
            ),
        )
    crowds, levels = crowd[:5600].reshape(2, 2800, 4).clone(), numbers(2, 2800, 3, seed=24, levels=300).abs()
    crowds[1] = crowds[1, :1]  # all but one are suppressed in each class: needs a refill
    every = {"iou_threshold": 0.4, "score_threshold": 0.0, "candidates_per_class": 2800, "max_detections": 30}
    yield "multiclass_nms", lambda: tuple(ssd_ops.multiclass_nms(crowds, levels, **every))
    for method in ("linear", "gaussian"):
        yield "soft_nms", lambda m=method: tuple(ssd_ops.soft_nms(many, class_scores, method=m, **limits))
    loc, logits, priors = numbers(2, 300, 4, seed=14), numbers(2, 300, 5, seed=15) * 2, boxes(300, 16) + 0.01
    for rules in ({"multi_label": True}, {"multi_label": False, "min_size": 0.1}):
        options = {"candidates_per_class": 70, "max_detections": 40, **rules}
        yield "detect", lambda o=options: tuple(ssd_ops.detect(loc, logits, priors, **o))
    levels_in = [as_levels(rows, CELLS) for rows in (loc, logits)]
    yield "detect_levels", lambda: tuple(ssd_ops.detect(*levels_in, priors, candidates_per_class=70, max_detections=40))
    many_loc, many_logits = numbers(2, 1500, 4, seed=25), numbers(2, 1500, 5, seed=26, levels=300)
    wide = {"candidates_per_class": 1500, "max_detections": 40}
    yield "detect", lambda: tuple(ssd_ops.detect(many_loc, many_logits, crowd[:1500] + 0.01, **wide))


def _images() -> Iterator[tuple[str, Case]]:
    generator = torch.Generator().manual_seed(19)
    images = [torch.randint(0, 256, (3, *s), generator=generator).to(torch.uint8) for s in ((40, 51), (1, 1), (9, 90))]
    crops = torch.tensor([[-9.5, 3, 60, 38], [0, 0, 1, 1], [80, -1, 95, 9.5]])
    color_matrices, flip = torch.eye(3, 4).repeat(3, 1, 1) * 1.5, torch.tensor([True, False, True])
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        options = {
            "color_matrices": color_matrices,
            "hue": torch.tensor([0.0, 0.2, -0.1]),
            "flip": flip,
            "dtype": dtype,
        }
        yield "render_images", lambda o=options: ssd_ops.render_images(images, crops, 35, **o)


CASES = [*_iou_and_codec(), *_training(), *_detection(), *_images()]


def has_kernel(op: str) -> bool:
    """Returns whether the emulated library has a kernel of this op."""
    emulated_ops()
    return bool(torch._C._dispatch_has_kernel_for_dispatch_key(f"ssd_ops_emu::{op}", "CPU"))


def main() -> None:
    global ssd_ops
    on_gpu, names = "--cuda" in sys.argv[1:], {name for name in sys.argv[1:] if name != "--cuda"}
    if unknown := names - {op for op, _ in CASES}:
        sys.exit(f"there is no op {', '.join(sorted(unknown))}")
    if on_gpu:
        if not torch._C._dispatch_has_kernel_for_dispatch_key("ssd_ops::box_iou", "CUDA"):
            sys.exit("ssd_ops was built without CUDA kernels: SSD_OPS_CUDA=1 pip install -e . says why")
        ssd_ops = Implementation("cuda")  # moves tensors to the GPU and results back
    else:
        torch.ops.ssd_ops = emulated_ops()
    for op, case in CASES:
        if (not names or op in names) and (on_gpu or has_kernel(op)):
            case()
            print(f"{op}: ran", flush=True)


if __name__ == "__main__":
    main()
