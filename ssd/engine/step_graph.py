"""Runs the training step as one CUDA graph, which needs one launch instead of a thousand.

The first steps of each batch shape run eagerly, because they select algorithms and create the optimizer state. The next
step is captured, and replayed from then on. The numbers of ground truth boxes and of unrendered pixels vary, so they are
copied into larger buffers; a batch that exceeds them triggers a new capture with larger ones.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import replace

import torch
from torch import Tensor, nn

from ssd.common.errors import ConfigError
from ssd.data import Batch, PackedImages

Losses = dict[str, Tensor]

_EAGER_STEPS = 3
_MAX_GRAPHS = 2  # batch shapes with a graph; each graph owns memory for all activations


class GraphedStep:
    """Runs training steps on one GPU: eagerly at first, then as a CUDA graph, with bit-equal results.

    Args:
        step: Computes the losses and gradients of a batch and updates the weights, without synchronizing.
        model: Model to train. Moving or freezing parameters, or switching a module's mode, discards the graphs.
        optimizer: Its state is part of the graphs; loading a state dict discards them.
        required: Raise ConfigError if a step cannot be captured, instead of continuing eagerly.
        variant: Returns what else the course of a step depends on; another value discards the graphs.
    """

    eager_steps = _EAGER_STEPS

    def __init__(
        self,
        step: Callable[[Batch], Losses],
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        required: bool = False,
        variant: Callable[[], Hashable] = bool,
    ) -> None:
        self._step = step
        self._variant = variant
        self._required = required
        self._modules, self._weights = list(model.modules()), list(model.parameters())
        self._stream = torch.cuda.Stream(self._weights[0].device)
        self._graphs: OrderedDict[Hashable, _Graph] = OrderedDict()
        self._step_counts: Counter[Hashable] = Counter()
        self._captured_for = self._graph_key()
        self._capture_error: str | None = None
        optimizer.register_load_state_dict_post_hook(lambda _: self._discard())

    def __call__(self, batch: Batch) -> Losses:
        """Runs a step and returns its detached losses."""
        if self._capture_error is not None:
            return self._step(batch)
        if (key := self._graph_key()) != self._captured_for:
            self._discard()
            self._captured_for = key
        shape = _shape_of(batch)
        self._step_counts[shape] += 1
        graph = self._graphs.get(shape)
        if graph is None or not graph.buffers.fits(batch):
            if self._step_counts[shape] <= _EAGER_STEPS:
                return self._run_eagerly(batch)
            graph = self._capture(shape, batch)
            if graph is None:
                return self._step(batch)
        self._graphs.move_to_end(shape)
        losses = graph.replay(batch)
        torch.autograd.graph.increment_version(self._weights)  # as any in-place update does
        return losses

    def _graph_key(self) -> Hashable:
        # Everything that a captured graph depends on besides the shape of the batch.
        weights = tuple([(weight.data_ptr(), weight.requires_grad) for weight in self._weights])
        return weights, tuple([module.training for module in self._modules]), self._variant()

    def _discard(self) -> None:
        self._graphs.clear()
        self._step_counts.clear()

    def _run_eagerly(self, batch: Batch) -> Losses:
        # On the capture stream, so that everything created once per stream exists before the capture.
        current = torch.cuda.current_stream(self._stream.device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            losses = self._step(batch)
        current.wait_stream(self._stream)
        return losses

    def _capture(self, shape: Hashable, batch: Batch) -> _Graph | None:
        self._graphs.pop(shape, None)  # free its memory before the new graph allocates
        while len(self._graphs) >= _MAX_GRAPHS:
            self._graphs.popitem(last=False)
        try:
            self._graphs[shape] = _Graph(self._step, batch, self._stream)
        except RuntimeError as error:
            self._capture_error = str(error).splitlines()[0]
            if self._required:
                raise ConfigError(
                    f"--cuda-graph on: the training step cannot be captured: {self._capture_error}"
                ) from error
            for weight in self._weights:
                weight.grad = None  # the failed capture computed nothing
            print(f"training step: eager from now on, because it cannot be captured: {self._capture_error}")
            return None
        return self._graphs[shape]


class _Graph:
    """A captured step and its input buffers."""

    def __init__(self, step: Callable[[Batch], Losses], batch: Batch, stream: torch.cuda.Stream) -> None:
        self.buffers = BatchBuffers(batch)
        self.buffers.load(batch)
        self.graph = torch.cuda.CUDAGraph()
        # thread_local: calls of the thread that pins batches must not invalidate the capture.
        with torch.cuda.graph(self.graph, stream=stream, capture_error_mode="thread_local"):
            self.losses = step(self.buffers.batch)

    def replay(self, batch: Batch) -> Losses:
        """Runs the step for a batch that fits into the buffers."""
        self.buffers.load(batch)
        self.graph.replay()
        return {name: loss.clone() for name, loss in self.losses.items()}  # the next replay overwrites the losses


class BatchBuffers:
    """Static buffers for a batch, with capacity for twice its ground truth boxes and 1.5 times its pixels.

    The offsets end at the last ground truth box of the batch, so the rows beyond it belong to no image.

    Args:
        batch: Determines the shapes; its values are not copied.
    """

    def __init__(self, batch: Batch) -> None:
        images = batch.images
        if isinstance(images, PackedImages):
            tensors = {n: torch.zeros_like(t) for n, t in vars(images).items() if isinstance(t, Tensor)}
            tensors["pixels"] = images.pixels.new_zeros(len(images.pixels) * 3 // 2)
            own: Tensor | PackedImages = replace(images, **tensors)  # type: ignore[arg-type]
        else:
            own = torch.zeros_like(images)
        capacity = 1 << max(6, (2 * len(batch.gt_labels)).bit_length())
        self.batch = replace(
            batch,
            images=own,
            gt_boxes=batch.gt_boxes.new_zeros(capacity, 4),
            gt_labels=batch.gt_labels.new_ones(capacity),
            ignore=batch.ignore.new_zeros(capacity),
            offsets=torch.zeros_like(batch.offsets),
        )

    def fits(self, batch: Batch) -> bool:
        """Returns whether a batch of the same shape fits into the buffers."""
        return all(len(source) <= len(target) for target, source in self._pairs(batch))

    def load(self, batch: Batch) -> None:
        """Copies a batch into the buffers, from its device or from pinned memory, without synchronizing."""
        for target, source in self._pairs(batch):
            target[: len(source)].copy_(source, non_blocking=True)

    def _pairs(self, batch: Batch) -> list[tuple[Tensor, Tensor]]:
        names = ("gt_boxes", "gt_labels", "ignore", "offsets")
        pairs = [(getattr(self.batch, name), getattr(batch, name)) for name in names]
        own, images = self.batch.images, batch.images
        if isinstance(own, Tensor) and isinstance(images, Tensor):
            return [*pairs, (own, images)]
        return [*pairs, *((t, getattr(images, n)) for n, t in vars(own).items() if isinstance(t, Tensor))]


def _shape_of(batch: Batch) -> Hashable:
    """Returns the shape that a graph is captured for: that of the images, or for packed images number and canvas."""
    images = batch.images
    if isinstance(images, PackedImages):
        return len(batch), images.canvas, images.pixels.device
    return tuple(images.shape), images.dtype, images.device, images.is_contiguous()
