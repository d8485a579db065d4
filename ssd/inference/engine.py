"""A detector optimized for inference: folded weights, channels_last, half precision and CUDA graphs.

    engine = ssd.InferenceEngine(model)
    detections = engine.predict([image])  # uint8 [3, H, W] of any sizes -> dicts of boxes, labels and scores

`ssd predict`, evaluation and `Detector` use it. The results differ from `model(images)` by rounding (that of bfloat16
where the device computes in it); with `exact=True` they are equal bit for bit.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

import ssd_ops
from ssd.data.loading.whole_images import WholeImages
from ssd.inference.graph import DetectionGraphs, Images, Network, count_of, slice_of
from ssd.models import SSD
from ssd.models.folded import folded
from ssd.models.fused_heads import fuse_heads
from ssd.models.half_precision import check_dtype, has_native_bfloat16
from ssd.models.heads import Outputs, rows_of
from ssd.models.packed import can_pack, pack_convolutions
from ssd.models.tensor_slots import Snapshot, tensor_slots
from ssd.models.torchvision_io import split_detections
from ssd.transforms.device_augment import MAX_PIXEL_RATIO, MAX_SIDE
from ssd.transforms.resize import resize_image

_PART = 4  # images that go through the network together on a CPU, or as many as there are threads


class InferenceEngine:
    """Runs a detector for inference; not safe for concurrent threads or CUDA streams.

    Updates of the model's weights by torch are detected; call `refresh` after any other change.

    Args:
        model: Detector; it is copied, except with `exact`.
        exact: Run the model itself, eagerly and in its own precision, with results bit-equal to `model(images)`.
        dtype: Type of weights and features; None is bfloat16 where `has_native_bfloat16` says that it is faster (GPUs since
            Ampere, CPUs with AVX512_BF16), else float32. Boxes and scores are computed in float32 in either case.
        compile: Use torch.compile, which takes a minute at the first batch of each size.
        antialias: Whether to antialias when resizing images, as in training; `exact` resizes like `model(images)`.
        fuse_heads: Predict both outputs of a level by one convolution, where the heads are single convolutions.

    Raises:
        ValueError: `dtype` is no floating type of 16, 32 or 64 bits; `exact` is combined with `compile`, `dtype` or
            `fuse_heads`, or with a model in training mode.
        TypeError: `model` is not a model of this project.
    """

    def __init__(
        self,
        model: SSD,
        *,
        exact: bool = False,
        dtype: torch.dtype | None = None,
        compile: bool = False,
        antialias: bool = True,
        fuse_heads: bool = False,
    ) -> None:
        if not isinstance(model, SSD):
            raise TypeError(f"model must be a model of ssd.build_model, got {type(model).__name__}")
        if exact and (compile or dtype is not None or fuse_heads):
            raise ValueError("exact=True cannot be combined with compile, dtype or fuse_heads")
        check_dtype(dtype)
        self.model = model
        self.exact = exact
        self.device = model.priors.device
        self.dtype = dtype or (torch.bfloat16 if has_native_bfloat16(self.device) else torch.float32)
        self.antialias = antialias
        self._compile = compile
        self._fuse_heads = fuse_heads
        self._rebuild = partial(
            InferenceEngine, exact=exact, dtype=dtype, compile=compile, antialias=antialias, fuse_heads=fuse_heads
        )
        self._slots = tensor_slots(model)
        self._copies = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None
        self._net = model
        self._graphs: DetectionGraphs | None = None
        self._prepare()

    def __reduce__(self) -> tuple[Callable[..., InferenceEngine], tuple[SSD]]:
        """Copies and pickles the model and the options: packed weights and CUDA graphs cannot be copied."""
        return self._rebuild, (self.model,)

    def refresh(self) -> None:
        """Updates the engine to the current weights of the model."""
        is_read_in_place = self.device.type == "cuda" or self._compile  # by CUDA graphs and compiled code
        if is_read_in_place and not self.exact and self.model.preset is self._preset:
            fresh = self._folded()
            old, new = ([*net.parameters(), *net.buffers()] for net in (self._net, fresh))
            if [t.shape for t in old] == [t.shape for t in new]:
                with torch.inference_mode(False), torch.no_grad():
                    torch._foreach_copy_(old, new)
                self._seen = Snapshot(self._slots)
                return
        self._prepare()

    def predict(self, images: Sequence[Tensor]) -> list[dict[str, Tensor]]:
        """Detects objects in images of any sizes.

        Args:
            images: uint8 RGB `[3, H, W]` each, on the CPU or on the model's device.

        Returns:
            For each image a dict of boxes `[N, 4]` (xyxy in its pixels), labels `[N]` and scores `[N]` in descending
            order of score, on the CPU.

        Raises:
            ValueError: An image has another shape or dtype.
            TypeError: An image is not a tensor.
        """
        for i, image in enumerate(images):
            if not isinstance(image, Tensor):
                raise TypeError(f"images[{i}] must be a tensor, uint8 [3, H, W], got {type(image).__name__}")
            if image.dtype != torch.uint8 or image.dim() != 3 or image.shape[0] != 3 or not image.numel():
                raise ValueError(f"images[{i}] must be uint8 [3, H, W], got {image.dtype} {list(image.shape)}")
        if not len(images):
            return []
        if self.exact:
            return self._predict_exact(images)
        detections = self.detect(self.pack(images))
        return split_detections(detections, [(image.shape[1], image.shape[2]) for image in images])

    def pack(self, images: Sequence[Tensor]) -> WholeImages:
        """Packs images of any sizes for `detect`, which resizes them to the input size of the network.

        Large images are reduced here, see `reduced`.
        """
        parts = [self.reduced(image) for image in images]
        return WholeImages.of(parts, self.model.image_size, self.antialias, pin=self.device.type == "cuda")

    def reduced(self, image: Tensor) -> Tensor:
        """Resizes an image with more than 16 times the pixels of the input to it, which is faster than copying it.

        Any other image is returned unchanged. Safe for concurrent threads.
        """
        side = self.model.image_size
        height, width = image.shape[1:]
        if height * width > MAX_PIXEL_RATIO * side**2 or max(height, width) > MAX_SIDE:
            image = resize_image(image, [side, side], antialias=self.antialias)
        return image

    def detect(self, images: Images) -> ssd_ops.Detections:
        """Returns the padded detections of a batch on the CPU, with boxes normalized to their image.

        Args:
            images: `[B, 3, S, S]`, uint8 or floating in 0..1, where S is the model's `image_size`; or the result of `pack`.

        Raises:
            ValueError: The images have another shape.
        """
        return next(self.detect_all([images]))

    def detect_all(self, batches: Iterable[Images]) -> Iterator[ssd_ops.Detections]:
        """Yields the padded detections of each batch on the CPU, after launching the next batch."""
        pending: deque[Callable[[], ssd_ops.Detections]] = deque()
        for images in batches:
            pending.append(self._submit(images))
            if len(pending) > 1:
                yield pending.popleft()()
        while pending:
            yield pending.popleft()()

    def outputs(self, images: Images) -> tuple[Tensor, Tensor]:
        """Returns loc [B, P, 4] and logits [B, P, C] of a batch on the model's device, for `model.detect`."""
        self._check_shape(images)
        with torch.inference_mode(False), torch.no_grad(), torch.autocast(self.device.type, enabled=False):
            self._refresh_if_changed()
            parts = [self._network(part) for part in self._parts(images.to(self.device))]
            loc, logits = zip(*parts, strict=True)
            classes = self.model.num_classes
            return _joined([rows_of(part, 4) for part in loc]), _joined([rows_of(part, classes) for part in logits])

    def _check_shape(self, images: Images) -> None:
        side = self.model.image_size
        if isinstance(images, Tensor) and images.shape[1:] != (3, side, side):
            raise ValueError(f"images must have shape [B, 3, {side}, {side}], got {list(images.shape)}")

    def _refresh_if_changed(self) -> None:
        if not self.exact and (self.model.preset is not self._preset or not self._seen.is_current()):
            self.refresh()

    def _submit(self, images: Images) -> Callable[[], ssd_ops.Detections]:
        self._check_shape(images)
        with torch.inference_mode(False), torch.no_grad(), torch.autocast(self.device.type, enabled=False):
            self._refresh_if_changed()
            if self._graphs is not None:
                assert self._copies is not None
                return self._graphs.submit(images, self._copies)
            images = images.to(self.device)
            parts = [self._net.detect(*self._network(part)) for part in self._parts(images)]
            return lambda: ssd_ops.Detections(*(_joined(tensors).cpu() for tensors in zip(*parts, strict=True)))

    def _parts(self, images: Images) -> list[Images]:
        """Splits a batch on a CPU: the features of a few images fit in caches, and their memory is used again."""
        count, size = count_of(images), max(_PART, torch.get_num_threads())
        if self.exact or self._compile or self.device.type != "cpu" or count <= size:
            return [images]
        return [slice_of(images, i, min(i + size, count)) for i in range(0, count, size)]

    def _prepare(self) -> None:
        self._preset = self.model.preset
        self._seen = Snapshot(self._slots)
        if self.exact:
            if self.model.training:
                raise ValueError("model must be in evaluation mode for exact=True; call model.eval()")
            self._network: Callable[[Images], tuple[Outputs, Outputs]] = lambda x: self.model.forward_levels(
                self.model.normalize(x)
            )
            return
        self._net = net = self._folded()
        if self.device.type == "cpu" and not self._compile and can_pack(self.dtype):
            pack_convolutions(net)
        forward: Network = net.forward_levels
        if self._compile:
            forward = torch.compile(net.forward_levels, dynamic=False)
        self._network = lambda x: forward(net.normalize(x).contiguous(memory_format=torch.channels_last))
        self._graphs = DetectionGraphs(net, forward) if self.device.type == "cuda" else None

    def _folded(self) -> SSD:
        net = folded(self.model, self.dtype)
        if self._fuse_heads:
            fuse_heads(net)
        return net.to(memory_format=torch.channels_last)

    def _predict_exact(self, images: Sequence[Tensor]) -> list[dict[str, Tensor]]:
        with torch.no_grad():
            outputs: Any = self.model([image.to(self.device).float().div_(255) for image in images])
        return [{name: value.cpu() for name, value in output.items()} for output in outputs]


def _joined(tensors: Sequence[Tensor]) -> Tensor:
    return tensors[0] if len(tensors) == 1 else torch.cat([*tensors])
