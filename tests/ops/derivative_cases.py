"""One call of every public function, as a function of its differentiable inputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

import ssd_ops
from tests.ops.boxes import random_boxes
from tests.ops.levels import as_levels

PRIORS, CLASSES, OBJECTS = 24, 4, 5
CELLS = ((2, 3, 3), (1, 2, 3))


@dataclass(frozen=True)
class Case:
    """A function of an implementation, its inputs and its options."""

    name: str
    call: Callable[..., Any]
    """From the implementation (`ssd_ops` or `ssd_ops.reference`) and the inputs: one result or several."""
    inputs: tuple[Tensor, ...]
    differentiable: tuple[int, ...] = (0,)
    """Which results have a derivative; none for functions without."""

    def __repr__(self) -> str:
        return self.name

    def results(self, module: ModuleType, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Returns all results."""
        found = self.call(module, *inputs)
        return (found,) if isinstance(found, Tensor) else tuple(found)

    def smooth(self, module: ModuleType = ssd_ops) -> Callable[..., tuple[Tensor, ...]]:
        """Returns the function from the inputs to the results that have a derivative."""
        return lambda *inputs: tuple(self.results(module, *inputs)[i] for i in self.differentiable)

    def number(self, module: ModuleType = ssd_ops) -> Callable[..., Tensor]:
        """Returns a scalar function of the inputs that depends on every such result."""

        def number(*inputs: Tensor) -> Tensor:
            total = inputs[0].new_zeros(())
            for result in self.smooth(module)(*inputs):
                factors = torch.arange(1, result.numel() + 1, device=result.device).view(result.shape).sin()
                total = total + (result * factors).sum()
            return total

        return number


def cases() -> list[Case]:
    """Returns a case of every public function."""
    generator = torch.Generator().manual_seed(0)

    def randn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    pairs = random_boxes(3, seed=1), random_boxes(4, seed=2)
    batch, priors = random_boxes(2, PRIORS, seed=3), random_boxes(PRIORS, seed=4)
    boxes, scores = random_boxes(PRIORS, seed=5), torch.rand(PRIORS, generator=generator)
    class_scores = torch.rand(2, PRIORS, CLASSES, generator=generator)
    loc, logits = randn(2, PRIORS, 4), randn(2, PRIORS, CLASSES) * 2
    targets, labels = randn(2, PRIORS, 4), torch.arange(2 * PRIORS).view(2, PRIORS) % 7 - 1
    labels = torch.where(labels < CLASSES, labels, 0)
    truths, names = random_boxes(OBJECTS, seed=6), torch.arange(OBJECTS) % 3 + 1
    hard = {"score_threshold": 0.3, "iou_threshold": 0.4, "candidates_per_class": 20, "max_detections": 12}
    soft = {"score_threshold": 0.2, "iou_threshold": 0.1, "max_detections": 12}
    crops = torch.tensor([[0.0, 0, 6, 6], [1, 1, 5, 5]])

    def here(tensor: Tensor, like: Tensor) -> Tensor:
        return tensor.to(like.device)

    found = [
        Case(name, lambda m, a, b, name=name: getattr(m, name)(a, b), pairs)
        for name in ("box_iou", "generalized_box_iou", "distance_box_iou", "complete_box_iou")
    ]
    found += [
        Case(name, lambda m, a, b, name=name: getattr(m, name)(a, b), (first, priors))
        for name, first in (("encode_boxes", batch), ("decode_boxes", loc))
    ]
    found += [
        Case(
            "multibox_loss",
            lambda m, a, b, c: m.multibox_loss(a, b, c, here(labels, a)),
            (loc, logits, targets),
            (0, 1),
        ),
        Case("match_priors", lambda m, a, b: _matches(m, a, here(names, a), b), (truths, priors), (2,)),
        Case("multiclass_nms", lambda m, a, b: m.multiclass_nms(a, b, **hard), (batch, class_scores), (0, 1)),
        Case(
            "multibox_loss levels",
            lambda m, a, b, c: m.multibox_loss(as_levels(a, CELLS), as_levels(b, CELLS), c, here(labels, a)),
            (loc, logits, targets.detach()),
            (0, 1),
        ),
        Case("detect", lambda m, a, b, c: m.detect(a, b, c, max_detections=12), (loc, logits, priors), (0, 1)),
        Case(
            "detect levels",
            lambda m, a, b, c: m.detect(as_levels(a, CELLS), as_levels(b, CELLS), c, max_detections=12),
            (loc, logits, priors),
            (0, 1),
        ),
    ]
    found += [
        Case(
            f"soft_nms {way}",
            lambda m, a, b, way=way: m.soft_nms(a, b, method=way, **soft),
            (batch, class_scores),
            (0, 1),
        )
        for way in ("gaussian", "linear")
    ]
    return [
        *found,
        Case("nms", lambda m, a, b: m.nms(a, b, 0.4), (boxes, scores), ()),
        Case(
            "batched_nms",
            lambda m, a, b: m.batched_nms(a, b, here(torch.arange(PRIORS) % 2, a), 0.4),
            (boxes, scores),
            (),
        ),
        Case("render_images", _render, (crops,), ()),
    ]


def _matches(module: ModuleType, boxes: Tensor, labels: Tensor, priors: Tensor) -> Any:
    offsets = torch.tensor([0, 2, len(labels)], device=boxes.device)
    return module.match_priors(boxes, labels, priors, offsets=offsets, iou_threshold=0.3)


def _render(module: ModuleType, crops: Tensor) -> Tensor:
    pixels = torch.arange(2 * 3 * 36, device=crops.device).remainder(256).to(torch.uint8)
    places = torch.tensor([0, 108], device=crops.device), torch.tensor([[6, 6], [6, 6]], device=crops.device)
    return module.render_images(pixels, crops, 4, offsets=places[0], sizes=places[1])  # type: ignore[no-any-return]


CASES = cases()
SMOOTH = [case for case in CASES if case.differentiable]
