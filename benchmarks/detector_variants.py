"""Variants of a detector for bench_detector.py: torch.compile, CUDA graph, channels_last and autocast.

A variant is one of NAMES, or several joined by +. Each runs on its own copy of the detector, so that variants share no
weights, gradients or momentum. channels_last and amp are called with lists like torchvision's detectors, which can
therefore run in them too; compile and graph take tensors only. Of torchvision's detectors, compile compiles the two parts
that take tensors: backbone and heads.
"""

from __future__ import annotations

import copy
import sys
import time
from argparse import ArgumentTypeError
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

import ssd_ops
from benchmarks.detector_pair import MAX_OBJECTS
from benchmarks.peers import compute_loss
from ssd.models import SSD
from ssd.models.heads import Outputs
from ssd.models.torchvision_io import split_detections

NAMES = ("compile", "graph", "channels_last", "amp")
GetModel = Callable[[], Any]


def variant(text: str) -> str:
    """Returns the canonical name of a variant. Raises ArgumentTypeError if it is unknown."""
    parts = text.split("+")
    if unknown := [part for part in parts if part not in NAMES]:
        raise ArgumentTypeError(f"a variant is one of {', '.join(NAMES)}, or some joined by +; got {unknown[0]!r}")
    return "+".join(name for name in NAMES if name in parts)


def takes_lists(variant: str) -> bool:
    """Returns whether the variant takes lists, so that torchvision's detectors can run in it."""
    return not {"compile", "graph"} & {*variant.split("+")}


def is_for_torchvision(variant: str) -> bool:
    """Returns whether torchvision's detectors can run in the variant: their lists cannot be captured in a CUDA graph."""
    return "graph" not in variant.split("+")


def as_lists(detections: ssd_ops.Detections, side: int) -> list[dict[str, Tensor]]:
    """Returns padded detections in torchvision's format, in pixels."""
    return split_detections(detections, [(side, side)] * len(detections.counts))


def inference(get_model: GetModel, variant: str = "") -> Callable[[Tensor], Any]:
    """Returns a function from images `[B, 3, S, S]` to lists of detections."""
    made: list[Callable[[Tensor], Any]] = []

    @torch.no_grad()
    def call(images: Tensor) -> list[dict[str, Tensor]]:
        if not made:
            model = _variant_copy(get_model(), variant)
            if takes_lists(variant) or not isinstance(model, SSD):
                made.append(lambda batch: _autocast(variant, batch, lambda: model(list(batch))))
            else:
                padded = _with_first_call(variant, _detector(model, variant), [images])
                made.append(lambda batch: as_lists(padded(batch), batch.shape[-1]))
        return made[0](images)

    return call


def _detector(model: SSD, variant: str) -> Callable[[Tensor], ssd_ops.Detections]:
    def detections(images: Tensor) -> ssd_ops.Detections:
        return model.detect(*_network(model, variant, images))

    return _compiled(detections, variant)


def training_step(get_model: GetModel, variant: str = "") -> Callable[..., tuple[Tensor, Tensor]]:
    """Returns a function of images and targets that runs a step of SGD and returns both losses.

    The learning rate is so small that the weights of all candidates stay equal, however many steps each has run.
    """
    made: list[Callable[..., tuple[Tensor, Tensor]]] = []

    def call(images: Tensor, targets: list[dict[str, Tensor]]) -> tuple[Tensor, Tensor]:
        with_lists = takes_lists(variant) or not isinstance(get_model(), SSD)
        arguments: Any = (images, targets) if with_lists else _packed(variant, images, targets)
        if not made:
            model = _variant_copy(get_model(), variant)
            if with_lists:
                made.append(_step(model, lambda x, t: _autocast(variant, x, lambda: tuple(model(list(x), t).values()))))
            else:
                made.append(_with_first_call(variant, _step(model, _losses(model, variant)), arguments))
        loc, cls = made[0](*arguments)
        return loc.clone(), cls.clone()  # the next replay overwrites them

    return call


def _step(model: torch.nn.Module, losses: Callable[..., tuple[Tensor, ...]]) -> Callable[..., tuple[Tensor, Tensor]]:
    """Returns a training step. It sets gradients to None first: a CUDA graph then allocates them in its private pool."""
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-12, momentum=0.9)

    def step(*arguments: Any) -> tuple[Tensor, Tensor]:
        optimizer.zero_grad(set_to_none=True)
        loc, cls = losses(*arguments)
        (loc + cls).backward()
        optimizer.step()
        return loc.detach(), cls.detach()

    return step


def _losses(model: SSD, variant: str) -> Callable[..., tuple[Tensor, Tensor]]:
    def losses(images: Tensor, boxes: Tensor, labels: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
        loc, logits = _network(model, variant, images)
        both = model.criterion(loc, logits, model.priors, boxes, labels, offsets)
        return both["loc"], both["cls"]

    return _compiled(losses, variant)


def _packed(variant: str, images: Tensor, targets: list[dict[str, Tensor]]) -> list[Tensor]:
    """Returns images, normalized boxes `[G, 4]`, labels `[G]` and offsets `[B + 1]`."""
    counts = [0, *(len(target["boxes"]) for target in targets)]
    boxes = torch.cat([target["boxes"] for target in targets]) / images.shape[-1]
    labels = torch.cat([target["labels"] for target in targets])
    if "compile" in variant:  # the number of objects must not cause recompilation
        torch._dynamo.mark_dynamic(boxes, 0)
        torch._dynamo.mark_dynamic(labels, 0)
    offsets = torch.tensor(counts).cumsum(0)
    return [images, boxes, labels, offsets.to(images.device, non_blocking=True)]


def _variant_copy(model: torch.nn.Module, variant: str) -> Any:
    """Returns the model itself without a variant, else a copy, with weights in channels_last if that is in the variant."""
    if not variant:
        return model
    own = copy.deepcopy(model)
    if "compile" in variant and not isinstance(model, SSD):
        for part in (own.backbone, own.head):
            part.compile(dynamic=False)  # type: ignore[operator]
    return own.to(memory_format=torch.channels_last) if "channels_last" in variant else own


def _network(model: SSD, variant: str, images: Tensor) -> tuple[Outputs, Outputs]:
    images = model.normalize(images)
    if "channels_last" in variant:
        images = images.contiguous(memory_format=torch.channels_last)
    return _autocast(variant, images, lambda: model.forward_levels(images))


def _autocast(variant: str, images: Tensor, call: Callable[[], Any]) -> Any:
    with torch.autocast(images.device.type, torch.bfloat16, enabled="amp" in variant):
        return call()


def _compiled(call: Callable[..., Any], variant: str) -> Callable[..., Any]:
    if "compile" not in variant:
        return call
    torch._dynamo.config.recompile_limit = 64  # compiled once per model, batch size and variant
    return torch.compile(call, fullgraph=True, dynamic=False)


def _with_first_call(variant: str, call: Callable[..., Any], inputs: Sequence[Tensor]) -> Callable[..., Any]:
    """Runs the first call, which may take minutes, and captures a CUDA graph if that is in the variant."""
    start = time.perf_counter()
    print(f"  {variant}: the first call ...", end="", file=sys.stderr, flush=True)
    try:
        if "graph" in variant:
            return _capture_graph(call, inputs)
        call(*inputs)
        return call
    finally:
        print(f" {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)


def _capture_graph(call: Callable[..., Any], inputs: Sequence[Tensor]) -> Callable[..., Any]:
    """Captures a call and replays it on later inputs, copied to static buffers.

    The number of objects varies, so that boxes and labels have buffers of fixed capacity. The last offset is the number of
    objects: rows after it, left over from other calls, belong to no image.
    """
    images, *ground_truths = inputs
    static = [images.clone()]
    if ground_truths:
        boxes, labels, offsets = ground_truths
        capacity = MAX_OBJECTS * len(images)
        static += [boxes.new_zeros(capacity, 4), labels.new_ones(capacity), offsets.clone()]

    def load(arguments: Sequence[Tensor]) -> None:
        for target, source in zip(static, arguments, strict=True):
            target[: len(source)].copy_(source)

    load(inputs)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(
        side
    ):  # warm-up: creates momentum buffers, cuDNN plans and compiled code outside of the capture
        for _ in range(3):
            call(*static)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = call(*static)
    return _Replay(call, graph, load, result)


class _Replay(NamedTuple):
    """A captured call. It keeps the call alive, because the graph reads the weights of its model."""

    captured: Callable[..., Any]
    graph: torch.cuda.CUDAGraph
    load: Callable[[Sequence[Tensor]], None]
    result: Any

    def __call__(self, *arguments: Tensor) -> Any:
        self.load(arguments)
        self.graph.replay()
        return self.result


def loss_and_gradient(get_model: GetModel, get_priors: Callable[[], Tensor] | None = None) -> Any:
    """Returns a function from raw outputs and matches to both losses; with `get_priors`, torchvision's loss."""

    def call(loc: Tensor, logits: Tensor, matches: ssd_ops.PriorMatches, ground_truths: Any) -> tuple[Tensor, Tensor]:
        if get_priors is None:
            model = get_model()
            both = model.criterion.losses(loc, logits, matches, model.priors)
            values = both["loc"], both["cls"]
        else:
            targets = [{"boxes": b, "labels": x} for b, x in zip(*ground_truths, strict=True)]
            theirs = compute_loss(loc, logits, targets, [get_priors()] * len(loc), list(matches.gt_index))
            values = theirs["bbox_regression"], theirs["classification"]
        torch.autograd.grad(values[0] + values[1], (loc, logits))
        return values[0].detach(), values[1].detach()

    return call
