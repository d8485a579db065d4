"""One call of every batched op on inputs of fixed shapes, for tests of graphs, streams and devices."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

import ssd_ops
from tests.ops.boxes import random_boxes
from tests.ops.levels import as_levels

IMAGES, PRIORS, CLASSES, OBJECTS = 3, 700, 7, 40
CELLS = ((10, 11, 6), (3, 3, 4), (1, 1, 4))


@dataclass(frozen=True)
class Call:
    """An op with its gradient, where it has one."""

    name: str
    make: Callable[[int], list[Tensor]]
    """From a seed, inputs on the CPU: their shapes are the same for every seed."""
    run: Callable[..., tuple[Tensor, ...]]
    """From those inputs, all results; what it writes to, it gets as an input."""

    def inputs(self, seed: int, device: torch.device | str) -> list[Tensor]:
        """Returns inputs on a device."""
        return [tensor.to(device) for tensor in self.make(seed)]


def _randn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _with_gradients(function: Callable[..., Tensor | tuple[Tensor, ...]], *inputs: Tensor) -> tuple[Tensor, ...]:
    leaves = [tensor.detach().requires_grad_() for tensor in inputs]
    results = function(*leaves)
    results = (results,) if isinstance(results, Tensor) else results
    total = sum((result.square().sum() for result in results), torch.zeros((), device=leaves[0].device))
    return (*(result.detach() for result in results), *torch.autograd.grad(total, leaves))


def _pairs(seed: int) -> list[Tensor]:
    return [random_boxes(IMAGES, 33, seed=seed), random_boxes(IMAGES, PRIORS, seed=seed + 1)]


def _box_iou_out(boxes1: Tensor, boxes2: Tensor, out: Tensor) -> tuple[Tensor, ...]:
    ssd_ops.box_iou(boxes1, boxes2, out=out)
    return (out.clone(),)


def _coded(seed: int) -> list[Tensor]:
    return [random_boxes(IMAGES, PRIORS, seed=seed), random_boxes(PRIORS, seed=seed + 1)]


def _ground_truths(seed: int) -> list[Tensor]:
    """Packed ground truths whose offsets change with the seed."""
    boxes, priors = random_boxes(OBJECTS, seed=seed), random_boxes(PRIORS, seed=seed + 1)
    labels = torch.arange(OBJECTS) % (CLASSES - 1) + 1
    offsets = torch.tensor([0, 5 + seed, 5 + seed, OBJECTS])
    return [boxes, labels, offsets, labels == seed % CLASSES, priors]


def _loss(seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(-1, CLASSES, (IMAGES, PRIORS), generator=generator)
    labels[torch.rand(IMAGES, PRIORS, generator=generator) > 0.02 * (1 + seed)] = 0
    loc, targets = _randn(IMAGES, PRIORS, 4, seed=seed + 1), _randn(IMAGES, PRIORS, 4, seed=seed + 2)
    return [loc, _randn(IMAGES, PRIORS, CLASSES, seed=seed + 3), targets, labels]


def _scored(seed: int) -> list[Tensor]:
    return [random_boxes(IMAGES, PRIORS, seed=seed), _randn(IMAGES, PRIORS, CLASSES, seed=seed + 1).sigmoid()]


def _raw(seed: int) -> list[Tensor]:
    loc, logits = _randn(IMAGES, PRIORS, 4, seed=seed), _randn(IMAGES, PRIORS, CLASSES, seed=seed + 1) * 3
    return [loc, logits, random_boxes(PRIORS, seed=seed + 2)]


def _images(seed: int) -> list[Tensor]:
    """Packed images whose sizes, crops and color matrices change with the seed."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (IMAGES * 3 * 80 * 80,), generator=generator).to(torch.uint8)
    sizes = torch.randint(1, 81, (IMAGES, 2), generator=generator)
    crops = random_boxes(IMAGES, seed=seed, scale=100) - 10
    flip = torch.rand(IMAGES, generator=generator) < 0.5
    color_matrices = [_randn(IMAGES, 3, 4, seed=seed), _randn(IMAGES, seed=seed)]
    return [pixels, torch.arange(IMAGES) * 3 * 80 * 80, sizes, crops, flip, *color_matrices]


def _calls() -> list[Call]:
    limits = {"score_threshold": 0.6, "max_detections": 50}
    calls = [Call("box_iou out=", lambda seed: [*_pairs(seed), torch.zeros(IMAGES, 33, PRIORS)], _box_iou_out)]
    for name in ("box_iou", "generalized_box_iou", "distance_box_iou", "complete_box_iou"):
        calls.append(Call(name, _pairs, lambda a, b, n=name: _with_gradients(getattr(ssd_ops, n), a, b)))
    for name in ("encode_boxes", "decode_boxes"):
        calls.append(Call(name, _coded, lambda a, b, n=name: _with_gradients(getattr(ssd_ops, n), a, b)))
    for rule in ("greedy", "last", "none"):
        calls.append(
            Call(
                f"match_priors {rule}",
                _ground_truths,
                lambda boxes, labels, offsets, ignore, priors, r=rule: tuple(
                    ssd_ops.match_priors(boxes, labels, priors, offsets=offsets, ignore=ignore, rule=r)
                ),
            )
        )
    for options in ({}, {"normalizer": "image", "min_negatives": 5}, {"mining": "batch"}):
        calls.append(
            Call(
                f"multibox_loss {' '.join(map(str, options.values()))}".rstrip(),
                _loss,
                lambda loc, logits, targets, labels, o=options: _with_gradients(
                    lambda a, b: ssd_ops.multibox_loss(a, b, targets, labels, **o), loc, logits
                ),
            )
        )
    calls.append(
        Call(
            "multibox_loss levels",
            _loss,
            lambda loc, logits, targets, labels: _with_gradients(
                lambda a, b: ssd_ops.multibox_loss(as_levels(a, CELLS), as_levels(b, CELLS), targets, labels),
                loc,
                logits,
            ),
        )
    )
    calls.append(
        Call("detect levels", _raw, lambda a, b, c: tuple(ssd_ops.detect(as_levels(a, CELLS), as_levels(b, CELLS), c)))
    )
    hard = {**limits, "iou_threshold": 0.4, "candidates_per_class": 100}
    calls.append(Call("multiclass_nms", _scored, lambda a, b: tuple(ssd_ops.multiclass_nms(a, b, **hard))))
    for method in ("linear", "gaussian"):
        calls.append(
            Call(
                f"soft_nms {method}", _scored, lambda a, b, m=method: tuple(ssd_ops.soft_nms(a, b, method=m, **limits))
            )
        )
    for multi in (True, False):
        name = f"detect multi_label={multi}"
        calls.append(Call(name, _raw, lambda *raw, m=multi: tuple(ssd_ops.detect(*raw, multi_label=m))))
    calls.append(
        Call(
            "render_images",
            _images,
            lambda pixels, offsets, sizes, crops, flip, color_matrices, hue: (
                ssd_ops.render_images(
                    pixels, crops, 50, offsets=offsets, sizes=sizes, flip=flip, color_matrices=color_matrices, hue=hue
                ),
            ),
        )
    )
    return calls


CALLS = _calls()
# Their results have lengths that depend on the data, so they synchronize.
DROP_INS = [
    Call(
        "nms",
        lambda seed: [random_boxes(PRIORS, seed=seed), _randn(PRIORS, seed=seed)],
        lambda a, b: (ssd_ops.nms(a, b, 0.4),),
    ),
    Call(
        "batched_nms",
        lambda seed: [random_boxes(PRIORS, seed=seed), _randn(PRIORS, seed=seed), torch.arange(PRIORS) % CLASSES],
        lambda a, b, idxs: (ssd_ops.batched_nms(a, b, idxs, 0.4),),
    ),
]
