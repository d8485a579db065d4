"""Network and post-process as CUDA graphs, one for each of a few batch sizes, and the way of images in and detections out.

A graph keeps alive all that it reads: the network, its input and its output. All graphs share one pool of memory, which
is safe because they run one after the other and each output is copied out before the next replay.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

import ssd_ops
from ssd.data.loading.packed_images import PackedImages
from ssd.data.loading.whole_images import WholeImages
from ssd.models import SSD

# uint8 [B, 3, S, S] of the network's side, or what such images are rendered from
Images = Tensor | WholeImages | PackedImages
Network = Callable[[Tensor], tuple[Tensor, Tensor]]
_SIZES = (1, 2, 4, 8, 16, 32)  # batches in between are padded, larger ones are cut


class DetectionGraphs:
    """Detects on a GPU by replaying graphs, each captured when a batch of its size first comes.

    Args:
        net: The detector in evaluation mode, in channels_last.
        forward: Maps normalized images to loc and logits; `net.forward_raw` or a compiled form of it.
    """

    def __init__(self, net: SSD, forward: Network) -> None:
        self.net = net
        self.forward = forward
        self.device = net.priors.device
        self._graphs: dict[int, _Graph] = {}
        self._pool = torch.cuda.graph_pool_handle()
        self._stream = torch.cuda.Stream(self.device)

    def submit(self, images: Images, copies: torch.cuda.Stream) -> Callable[[], ssd_ops.Detections]:
        """Queue a batch on the current stream, its copy to the GPU on `copies`; the function returned waits for it."""
        current = torch.cuda.current_stream(self.device)
        if images.device.type == "cpu":
            with torch.cuda.stream(copies):
                there = on_device(images, self.device)
            current.wait_stream(copies)
            for tensor in _tensors(there):
                tensor.record_stream(current)
        else:
            there = images
        count = len(there.offsets) if isinstance(there, PackedImages) else len(there)
        most = _SIZES[-1]
        results = [self._detect(slice_of(there, i, min(i + most, count))) for i in range(0, max(count, 1), most)]
        done = torch.cuda.Event()
        done.record(current)

        def wait() -> ssd_ops.Detections:
            done.synchronize()
            return _unpacked(torch.cat(results) if len(results) != 1 else results[0])

        return wait

    def _detect(self, images: Images) -> Tensor:
        x = self.net.normalize(images)
        size = next(size for size in _SIZES if size >= len(x))
        graph = self._graphs.get(size)
        if graph is None:
            graph = self._graphs[size] = _Graph(self._run, x, size, self._stream, self._pool)
        graph.input[: len(x)].copy_(x)
        if len(x):
            graph.graph.replay()
        host = torch.empty(len(x), graph.output.shape[1], pin_memory=True)
        host.copy_(graph.output[: len(x)], non_blocking=True)
        return host

    def _run(self, x: Tensor) -> Tensor:
        return _packed(self.net.detect(*self.forward(x)))


class _Graph:
    def __init__(
        self, run: Callable[[Tensor], Tensor], x: Tensor, size: int, stream: torch.cuda.Stream, pool: Any
    ) -> None:
        self.run = run  # holds the network, whose weights the graph reads
        self.input = x.new_zeros(size, *x.shape[1:]).contiguous(memory_format=torch.channels_last)
        self.graph = torch.cuda.CUDAGraph()
        stream.wait_stream(torch.cuda.current_stream(x.device))
        with torch.cuda.stream(stream):
            for _ in range(2):  # chooses algorithms and makes what is made once
                run(self.input)
        torch.cuda.current_stream(x.device).wait_stream(stream)
        with torch.cuda.graph(self.graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
            self.output = run(self.input)


def on_device(images: Images, device: torch.device) -> Images:
    """Bring a batch from the CPU to a GPU through pinned memory; the host does not wait."""
    if not isinstance(images, WholeImages) and not _tensors(images)[0].is_pinned():
        images = images.pin_memory()
    return images.to(device, non_blocking=True)


def slice_of(images: Images, start: int, end: int) -> Images:
    """Images start .. end - 1 of a batch."""
    if isinstance(images, Tensor):
        return images[start:end]
    if isinstance(images, WholeImages):
        return images.part(start, end)
    rows = {n: t[start:end] for n, t in vars(images).items() if isinstance(t, Tensor) and n != "pixels"}
    return replace(images, **rows)  # type: ignore[arg-type]  # offsets point into the pixels of all images


def _tensors(images: Images) -> list[Tensor]:
    return (
        [images]
        if isinstance(images, Tensor)
        else [value for value in vars(images).values() if isinstance(value, Tensor)]
    )


def _packed(found: ssd_ops.Detections) -> Tensor:
    """One float32 row an image, for one copy to the host; labels and counts are small whole numbers."""
    rows = [found.boxes.flatten(1), found.scores, found.labels, found.counts[:, None]]
    return torch.cat([row.float() for row in rows], dim=1)


def _unpacked(rows: Tensor) -> ssd_ops.Detections:
    most = (rows.shape[1] - 1) // 6
    boxes, scores, labels, counts = rows.split([4 * most, most, most, 1], dim=1)
    return ssd_ops.Detections(boxes.unflatten(1, (most, 4)), scores, labels.long(), counts[:, 0].long())
