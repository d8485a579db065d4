"""The same detector run in other ways, for bench_detector.py: compiled graphs, CUDA graphs, channels_last and autocast."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

import ssd_ops
from benchmarks.peers import compute_loss
from ssd.models import SSD
from ssd.models.lists import split_detections

NAMES = ("compile", "graph", "channels_last", "amp")
GetModel = Callable[[], Any]


def as_lists(detections: ssd_ops.Detections, side: int) -> list[dict[str, Tensor]]:
    """Return padded detections as torchvision returns them, in pixels."""
    return split_detections(detections, [(side, side)] * len(detections.counts))


def inference(variant: str, get_model: GetModel) -> Callable[[Tensor], Any]:
    """Return a function of images `[B, 3, S, S]` that gives lists of detections."""
    calls: list[Callable[[Tensor], ssd_ops.Detections]] = []

    def make(images: Tensor) -> Callable[[Tensor], ssd_ops.Detections]:
        model: SSD = get_model()

        def plain(batch: Tensor) -> ssd_ops.Detections:
            return model.detect(*model.forward_raw(model.normalize(batch)))

        if variant == "compile":
            return torch.compile(plain, fullgraph=True)
        if variant == "channels_last":
            return lambda batch: plain(batch.contiguous(memory_format=torch.channels_last))
        if variant == "amp":
            return torch.autocast(images.device.type, torch.bfloat16)(plain)
        return _graphed(plain, images)

    @torch.no_grad()
    def call(images: Tensor) -> list[dict[str, Tensor]]:
        if not calls:
            calls.append(make(images))
        return as_lists(calls[0](images), images.shape[-1])

    return call


def _graphed(plain: Callable[[Tensor], Any], images: Tensor) -> Callable[[Tensor], Any]:
    """Record a call once and replay it on copies of later images."""
    static = images.clone()
    for _ in range(3):
        plain(static)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = plain(static)

    def replay(batch: Tensor) -> Any:
        static.copy_(batch)
        graph.replay()
        return result

    return replay


def training_step(get_model: GetModel, autocast: bool = False, memory_format: torch.memory_format | None = None) -> Any:
    """Return a function of images and targets that makes a step of SGD and gives both losses.

    The learning rate is so small that all candidates keep the same weights, however many steps each has made.
    """
    optimizers: list[torch.optim.Optimizer] = []

    def step(images: Tensor, targets: list[dict[str, Tensor]]) -> tuple[Tensor, Tensor]:
        model = get_model()
        if not optimizers:
            optimizers.append(torch.optim.SGD(model.parameters(), lr=1e-12, momentum=0.9))
        if memory_format is not None:
            images = images.contiguous(memory_format=memory_format)
        with torch.autocast(images.device.type, torch.bfloat16) if autocast else nullcontext():
            losses = model(list(images), targets)
        (losses["bbox_regression"] + losses["classification"]).backward()
        optimizers[0].step()
        optimizers[0].zero_grad()
        return losses["bbox_regression"].detach(), losses["classification"].detach()

    return step


def training_variant(variant: str, get_model: GetModel) -> Any:
    """Return a training step of this project's detector in one of the other ways."""
    if variant == "amp":
        return training_step(get_model, autocast=True)
    if variant == "channels_last":
        return training_step(get_model, memory_format=torch.channels_last)
    return _tensor_step(variant, get_model)


def _tensor_step(variant: str, get_model: GetModel) -> Any:
    """Return a step without lists: what torch.compile and CUDA graphs can hold. Nothing in it waits for the device."""
    recorded: list[Callable[..., tuple[Tensor, Tensor]]] = []

    def make(*inputs: Tensor) -> Callable[..., tuple[Tensor, Tensor]]:
        model: SSD = get_model()
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-12, momentum=0.9)

        def losses(images: Tensor, boxes: Tensor, labels: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
            loc, logits = model.forward_raw(model.normalize(images))
            both = model.criterion(loc, logits, model.priors, boxes, labels, offsets)
            return both["loc"], both["cls"]

        forward = torch.compile(losses, fullgraph=True) if variant == "compile" else losses

        def step(*arguments: Tensor) -> tuple[Tensor, Tensor]:
            loc, cls = forward(*arguments)
            (loc + cls).backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=variant == "compile")
            return loc.detach(), cls.detach()

        return step if variant == "compile" else _graphed_step(step, inputs)

    def call(images: Tensor, targets: list[dict[str, Tensor]]) -> tuple[Tensor, Tensor]:
        side = images.shape[-1]
        boxes = torch.cat([t["boxes"] for t in targets]) / side
        labels = torch.cat([t["labels"] for t in targets])
        each = len(targets[0]["boxes"])
        offsets = torch.arange(0, each * len(targets) + 1, each, device=images.device)
        if not recorded:
            recorded.append(make(images, boxes, labels, offsets))
        loc, cls = recorded[0](images, boxes, labels, offsets)
        return loc.clone(), cls.clone()

    return call


def _graphed_step(step: Callable[..., Any], inputs: tuple[Tensor, ...]) -> Callable[..., Any]:
    static = [t.clone() for t in inputs]
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # gradients and momentum must be there before a graph is recorded
        for _ in range(3):
            step(*static)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = step(*static)

    def replay(*arguments: Tensor) -> Any:
        for target, source in zip(static, arguments, strict=True):
            target.copy_(source)
        graph.replay()
        return result

    return replay


def loss_and_gradient(get_model: GetModel, get_priors: Callable[[], Tensor] | None = None) -> Any:
    """Return a function of raw outputs and matches that gives both losses; torchvision's own where priors are given."""

    def call(loc: Tensor, logits: Tensor, matches: ssd_ops.PriorMatches, truths: Any) -> tuple[Tensor, Tensor]:
        if get_priors is None:
            both = get_model().criterion.losses(loc, logits, matches)
            values = both["loc"], both["cls"]
        else:
            targets = [{"boxes": b, "labels": x} for b, x in zip(*truths, strict=True)]
            theirs = compute_loss(loc, logits, targets, [get_priors()] * len(loc), list(matches.gt_index))
            values = theirs["bbox_regression"], theirs["classification"]
        torch.autograd.grad(values[0] + values[1], (loc, logits))
        return values[0].detach(), values[1].detach()

    return call
