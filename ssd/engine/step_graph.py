"""A training step as one CUDA graph: the host launches it once instead of a thousand kernels one by one.

The first steps of a shape of batch run eagerly, since they choose algorithms and make the optimizer's state; the next
one is captured, and replayed from then on. Ground truths, and pixels that are still to be rendered, vary in number: they
are copied into buffers with room, and where that is too little a graph with more is captured.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import replace

import torch
from torch import Tensor, nn

from ssd.data import Batch, PackedImages
from ssd.errors import ConfigError

Losses = dict[str, Tensor]

_EAGER_STEPS = 3
_MOST_GRAPHS = 2  # shapes of batches at once; each graph has memory of its own for all activations


class GraphedStep:
    """Takes training steps on one GPU: eager ones first, then replays of a CUDA graph, equal bit for bit.

    Args:
        learn: Computes the losses of a batch, their gradients, and the new weights, without a wait of the host.
        model: What learns. Weights that move, freeze or change between training and evaluation drop the graphs.
        optimizer: Its state is part of the graphs; loading another one drops them.
        must: Raise ConfigError if a step cannot be captured, instead of going on with eager ones.
    """

    eager_steps = _EAGER_STEPS

    def __init__(
        self, learn: Callable[[Batch], Losses], model: nn.Module, optimizer: torch.optim.Optimizer, must: bool = False
    ) -> None:
        self._learn = learn
        self._must = must
        self._modules, self._weights = list(model.modules()), list(model.parameters())
        self._stream = torch.cuda.Stream(self._weights[0].device)
        self._graphs: OrderedDict[Hashable, _Graph] = OrderedDict()
        self._taken: Counter[Hashable] = Counter()
        self._captured_for = self._what_graphs_hold()
        self._refusal: str | None = None
        optimizer.register_load_state_dict_post_hook(lambda _: self._drop())

    def __call__(self, batch: Batch) -> Losses:
        """Take a step; returns detached losses of its own."""
        if self._refusal is not None:
            return self._learn(batch)
        if (held := self._what_graphs_hold()) != self._captured_for:
            self._drop()
            self._captured_for = held
        shape = _shape_of(batch)
        self._taken[shape] += 1
        graph = self._graphs.get(shape)
        if graph is None or not graph.batch.has_room_for(batch):
            if self._taken[shape] <= _EAGER_STEPS:
                return self._eager(batch)
            graph = self._capture(shape, batch)
            if graph is None:
                return self._learn(batch)
        self._graphs.move_to_end(shape)
        losses = graph.replay(batch)
        torch.autograd.graph.increment_version(self._weights)  # as any other change in place does
        return losses

    def _what_graphs_hold(self) -> Hashable:
        weights = tuple([(weight.data_ptr(), weight.requires_grad) for weight in self._weights])
        return weights, tuple([module.training for module in self._modules])

    def _drop(self) -> None:
        self._graphs.clear()
        self._taken.clear()

    def _eager(self, batch: Batch) -> Losses:
        # On the stream that captures later, so that all that is made once for each stream is there by then.
        current = torch.cuda.current_stream(self._stream.device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            losses = self._learn(batch)
        current.wait_stream(self._stream)
        return losses

    def _capture(self, shape: Hashable, batch: Batch) -> _Graph | None:
        self._graphs.pop(shape, None)  # before the next one is made, so that their memory is not needed at once
        while len(self._graphs) >= _MOST_GRAPHS:
            self._graphs.popitem(last=False)
        try:
            self._graphs[shape] = _Graph(self._learn, batch, self._stream)
        except RuntimeError as error:
            self._refusal = str(error).splitlines()[0]
            if self._must:
                raise ConfigError(f"--cuda-graph on: the training step cannot be captured: {self._refusal}") from error
            for weight in self._weights:
                weight.grad = None  # of the capture, which computed nothing
            print(f"training step: eager from now on, since it cannot be captured: {self._refusal}")
            return None
        return self._graphs[shape]


class _Graph:
    """A captured step, and the batch that it reads."""

    def __init__(self, learn: Callable[[Batch], Losses], batch: Batch, stream: torch.cuda.Stream) -> None:
        self.batch = BatchBuffers(batch)
        self.batch.load(batch)
        self.graph = torch.cuda.CUDAGraph()
        # thread_local: the thread that pins batches must not end the capture
        with torch.cuda.graph(self.graph, stream=stream, capture_error_mode="thread_local"):
            self.losses = learn(self.batch.batch)

    def replay(self, batch: Batch) -> Losses:
        """Take the step of a batch that there is room for."""
        self.batch.load(batch)
        self.graph.replay()
        return {name: loss.clone() for name, loss in self.losses.items()}  # the next replay writes to the same place


class BatchBuffers:
    """A batch at a fixed place, with room for twice as many ground truths and half as many pixels more.

    Offsets end where the ground truths do: rows behind them belong to no image.

    Args:
        batch: Says the shapes; its values are not copied.
    """

    def __init__(self, batch: Batch) -> None:
        images = batch.images
        if isinstance(images, PackedImages):
            tensors = {n: torch.zeros_like(t) for n, t in vars(images).items() if isinstance(t, Tensor)}
            tensors["pixels"] = images.pixels.new_zeros(len(images.pixels) * 3 // 2)
            own: Tensor | PackedImages = replace(images, **tensors)  # type: ignore[arg-type]
        else:
            own = torch.zeros_like(images)
        room = 1 << max(6, (2 * len(batch.gt_labels)).bit_length())
        self.batch = replace(
            batch,
            images=own,
            gt_boxes=batch.gt_boxes.new_zeros(room, 4),
            gt_labels=batch.gt_labels.new_ones(room),
            ignore=batch.ignore.new_zeros(room),
            offsets=torch.zeros_like(batch.offsets),
        )

    def has_room_for(self, batch: Batch) -> bool:
        """Whether a batch of the same shape fits in."""
        return all(len(source) <= len(target) for target, source in self._pairs(batch))

    def load(self, batch: Batch) -> None:
        """Copy a batch in, from its device or from pinned memory; the host does not wait."""
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
    """What a graph is captured for: the images' shape and type; of those to be rendered, their number and canvas."""
    images = batch.images
    if isinstance(images, PackedImages):
        return len(batch), images.canvas, images.pixels.device
    return tuple(images.shape), images.dtype, images.device, images.is_contiguous()
