"""Network and post-processing as CUDA graphs, one for each of a few batch sizes, with asynchronous copies.

Each graph keeps the network, its input and its output alive. All graphs share one memory pool, which is safe because they
run one after the other and each output is copied before the next replay.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeGuard

import torch
from torch import Tensor

import ssd_ops
from ssd.data.loading.packed_images import PackedImages
from ssd.data.loading.whole_images import WholeImages
from ssd.models import SSD
from ssd.models.heads import Outputs

# uint8 [B, 3, S, S] at the input size of the network, or packed images that are rendered to it
Images = Tensor | WholeImages | PackedImages
Network = Callable[[Tensor], tuple[Outputs, Outputs]]
_SIZES = (1, 2, 4, 8, 16, 32)  # other batches are padded, and larger ones split
_FEW_BYTES = 1 << 20  # copied on the stream of the graph: a second stream would take longer than it saves


class DetectionGraphs:
    """Runs detection on a GPU with CUDA graphs, each captured when a batch of its size first occurs.

    Args:
        net: Detector in evaluation mode, in channels_last.
        forward: Maps normalized images to loc and logits: `net.forward_levels`, possibly compiled.
    """

    def __init__(self, net: SSD, forward: Network) -> None:
        self.net = net
        self.forward = forward
        self.device = net.priors.device
        self._graphs: dict[tuple[int, torch.dtype], _Graph] = {}
        self._pool = torch.cuda.graph_pool_handle()
        self._stream = torch.cuda.Stream(self.device)

    def submit(self, images: Images, copies: torch.cuda.Stream) -> Callable[[], ssd_ops.Detections]:
        """Launches a batch on the current stream, with its copy to the GPU on `copies`.

        Returns:
            A function that synchronizes and returns the detections.
        """
        current = torch.cuda.current_stream(self.device)
        moved = images
        if _is_small(images):
            moved = images if images.is_pinned() else images.pin_memory()
        elif images.device.type == "cpu":
            with torch.cuda.stream(copies):
                moved = to_device(images, self.device)
            current.wait_stream(copies)
            for tensor in _tensors(moved):
                tensor.record_stream(current)
        count = count_of(moved)
        step = _SIZES[-1]
        results = [self._detect(slice_of(moved, i, min(i + step, count))) for i in range(0, max(count, 1), step)]
        done = torch.cuda.Event()
        done.record(current)

        def wait() -> ssd_ops.Detections:
            done.synchronize()
            return _unpacked(torch.cat(results) if len(results) != 1 else results[0])

        return wait

    def _detect(self, images: Images) -> Tensor:
        # Pixels of the network's size are normalized within the graph.
        x = images if isinstance(images, Tensor) and images.dtype == torch.uint8 else self.net.normalize(images)
        size = next(size for size in _SIZES if size >= len(x))
        graph = self._graphs.get((size, x.dtype))
        if graph is None:
            graph = _Graph(self._run, x, (size, *x.shape[1:]), self.device, self._stream, self._pool)
            self._graphs[size, x.dtype] = graph
        graph.input[: len(x)].copy_(x, non_blocking=True)
        if len(x):
            graph.graph.replay()
        host = torch.empty(len(x), graph.output.shape[1], pin_memory=True)
        host.copy_(graph.output[: len(x)], non_blocking=True)
        return host

    def _run(self, x: Tensor) -> Tensor:
        x = self.net.normalize(x) if x.dtype == torch.uint8 else x
        return _packed(self.net.detect(*self.forward(x.contiguous(memory_format=torch.channels_last))))


class _Graph:
    def __init__(
        self,
        run: Callable[[Tensor], Tensor],
        x: Tensor,
        shape: tuple[int, ...],
        device: torch.device,
        stream: torch.cuda.Stream,
        pool: Any,
    ) -> None:
        self.run = run  # keeps the network alive, whose weights the graph reads
        layout = torch.contiguous_format if x.dtype == torch.uint8 else torch.channels_last
        self.input = torch.zeros(shape, dtype=x.dtype, device=device).contiguous(memory_format=layout)
        self.graph = torch.cuda.CUDAGraph()
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream):
            for _ in range(2):  # warm up: select algorithms, create lazy state
                run(self.input)
        torch.cuda.current_stream(device).wait_stream(stream)
        with torch.cuda.graph(self.graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
            self.output = run(self.input)


def _is_small(images: Images) -> TypeGuard[Tensor]:
    """Returns whether images are a few bytes in host memory."""
    if not isinstance(images, Tensor) or images.dtype != torch.uint8 or images.device.type != "cpu":
        return False
    return images.numel() <= _FEW_BYTES


def to_device(images: Images, device: torch.device) -> Images:
    """Copies a batch from the CPU to a GPU through pinned memory, without synchronizing."""
    if not isinstance(images, WholeImages) and not _tensors(images)[0].is_pinned():
        images = images.pin_memory()
    return images.to(device, non_blocking=True)


def count_of(images: Images) -> int:
    """Returns the number of images of a batch."""
    return len(images.offsets) if isinstance(images, PackedImages) else len(images)


def slice_of(images: Images, start: int, end: int) -> Images:
    """Returns images [start, end) of a batch."""
    if isinstance(images, Tensor):
        return images[start:end]
    if isinstance(images, WholeImages):
        return images.part(start, end)
    rows = {n: t[start:end] for n, t in vars(images).items() if isinstance(t, Tensor) and n != "pixels"}
    return replace(images, **rows)  # type: ignore[arg-type]  # offsets index into the pixels of all images


def _tensors(images: Images) -> list[Tensor]:
    return (
        [images]
        if isinstance(images, Tensor)
        else [value for value in vars(images).values() if isinstance(value, Tensor)]
    )


def _packed(detections: ssd_ops.Detections) -> Tensor:
    # One float32 row per image, for a single copy to the host; labels and counts are small enough to be exact.
    rows = [detections.boxes.flatten(1), detections.scores, detections.labels, detections.counts[:, None]]
    return torch.cat([row.float() for row in rows], dim=1)


def _unpacked(rows: Tensor) -> ssd_ops.Detections:
    max_detections = (rows.shape[1] - 1) // 6
    boxes, scores, labels, counts = rows.split([4 * max_detections, max_detections, max_detections, 1], dim=1)
    return ssd_ops.Detections(boxes.unflatten(1, (max_detections, 4)), scores, labels.long(), counts[:, 0].long())
