"""A detector made ready for inference once: folded weights, channels_last, half precision and CUDA graphs.

    engine = ssd.InferenceEngine(model)
    for found in engine.predict([image]): ...  # uint8 [3, H, W] of any sizes; dicts of boxes, labels and scores

`predict`, evaluation and the Python API run on it. Results differ from `model(images)` by rounding (on a GPU by that of
bfloat16); `exact=True` gives those of `model(images)` bit for bit.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms.v2.functional import resize_image

import ssd_ops
from ssd.data.loading.whole_images import WholeImages
from ssd.inference.graph import DetectionGraphs, Images
from ssd.models import SSD
from ssd.models.folded import folded
from ssd.models.tensor_slots import tensor_slots
from ssd.models.torchvision_io import split_detections
from ssd.transforms.device_augment import MOST_PIXELS, MOST_SIDE


class InferenceEngine:
    """Runs a detector for inference; one thread and one CUDA stream at a time.

    Changed weights act: those that torch changes are noticed, after any other change call `refresh`.

    Args:
        model: A detector; it is copied, except with `exact`.
        exact: Run the model itself, eagerly in its own precision: the bits of `model(images)`.
        dtype: Of weights and features; None takes bfloat16 on a GPU that has it, else float32.
        compile: Run the network through torch.compile, which takes a minute at the first batch of each size.
        antialias: Whether images are resized with antialiasing, as in training; `exact` resizes as `model(images)` does.
    """

    def __init__(
        self,
        model: SSD,
        *,
        exact: bool = False,
        dtype: torch.dtype | None = None,
        compile: bool = False,
        antialias: bool = True,
    ) -> None:
        if exact and (compile or dtype is not None):
            raise ValueError("exact=True runs the model as it is; leave out compile and dtype")
        self.model = model
        self.exact = exact
        self.device = model.priors.device
        self.dtype = dtype or _default_dtype(self.device)
        self.antialias = antialias
        self._compile = compile
        self._slots = tensor_slots(model)
        self._copies = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None
        self._net = model
        self._graphs: DetectionGraphs | None = None
        self._prepare()

    def refresh(self) -> None:
        """Take over the model's weights as they are now."""
        if not self.exact and self.model.preset is self._preset:
            fresh = folded(self.model, self.dtype)
            old, new = ([*net.parameters(), *net.buffers()] for net in (self._net, fresh))
            if [t.shape for t in old] == [t.shape for t in new]:
                with torch.inference_mode(False), torch.no_grad():
                    torch._foreach_copy_(old, new)  # into the tensors that CUDA graphs read
                self._seen = self._versions()
                return
        self._prepare()

    def predict(self, images: Sequence[Tensor]) -> list[dict[str, Tensor]]:
        """Detect objects in images of any sizes.

        Args:
            images: uint8 RGB [3, H, W] each, on the CPU or on the model's device.
        Returns:
            for each image a dict of boxes [N, 4] xyxy in its pixels, labels [N], scores [N], by falling score; on the
            CPU.
        """
        for i, image in enumerate(images):
            if image.dtype != torch.uint8 or image.dim() != 3 or image.shape[0] != 3 or not image.numel():
                raise ValueError(f"images[{i}] must be uint8 [3, H, W], got {image.dtype} {list(image.shape)}")
        if not len(images):
            return []
        if self.exact:
            return self._exactly(images)
        detections = self.detect(self.pack(images))
        return split_detections(detections, [(image.shape[1], image.shape[2]) for image in images])

    def pack(self, images: Sequence[Tensor]) -> WholeImages:
        """Bring images of any sizes into the form that `detect` renders to the network's side.

        An image with more than 16 times the network's pixels is resized here, which takes less than handing it on.
        """
        side = self.model.image_size
        parts = []
        for image in images:
            height, width = image.shape[1:]
            if height * width > MOST_PIXELS * side**2 or max(height, width) > MOST_SIDE:
                image = resize_image(image, [side, side], antialias=self.antialias)
            parts.append(image)
        return WholeImages.of(parts, side, self.antialias, pin=self.device.type == "cuda")

    def detect(self, images: Images) -> ssd_ops.Detections:
        """Return the padded detections of a batch on the CPU, boxes normalized to their image."""
        return next(self.detect_all([images]))

    def detect_all(self, batches: Iterable[Images]) -> Iterator[ssd_ops.Detections]:
        """Yield the padded detections of each batch on the CPU; the GPU has the next batch by then."""
        waiting: deque[Callable[[], ssd_ops.Detections]] = deque()
        for images in batches:
            waiting.append(self._submit(images))
            if len(waiting) > 1:
                yield waiting.popleft()()
        while waiting:
            yield waiting.popleft()()

    def _submit(self, images: Images) -> Callable[[], ssd_ops.Detections]:
        with torch.inference_mode(False), torch.no_grad(), torch.autocast(self.device.type, enabled=False):
            if not self.exact and (self._seen != self._versions() or self.model.preset is not self._preset):
                self.refresh()
            if self._graphs is not None:
                assert self._copies is not None
                return self._graphs.submit(images, self._copies)
            found = self._net.detect(*self._network(images.to(self.device)))
            return lambda: ssd_ops.Detections(*(tensor.cpu() for tensor in found))

    def _prepare(self) -> None:
        self._preset = self.model.preset
        self._seen = self._versions()
        if self.exact:
            if self.model.training:
                raise ValueError("model must be in evaluation mode for exact=True; call model.eval()")
            self._network: Callable[[Images], tuple[Tensor, Tensor]] = lambda x: self.model.forward_raw(
                self.model.normalize(x)
            )
            return
        self._net = net = folded(self.model, self.dtype)
        forward: Callable[[Tensor], tuple[Tensor, Tensor]] = net.forward_raw
        if self._compile:
            forward = torch.compile(net.forward_raw, dynamic=False)
        self._network = lambda x: forward(net.normalize(x).contiguous(memory_format=torch.channels_last))
        self._graphs = DetectionGraphs(net, forward) if self.device.type == "cuda" else None

    def _versions(self) -> list[tuple[int, int]]:
        tensors = [slots[name] for slots, name in self._slots]
        return [(tensor.data_ptr(), 0 if tensor.is_inference() else tensor._version) for tensor in tensors]

    def _exactly(self, images: Sequence[Tensor]) -> list[dict[str, Tensor]]:
        with torch.no_grad():
            found: Any = self.model([image.to(self.device).float().div_(255) for image in images])
        return [{name: value.cpu() for name, value in each.items()} for each in found]


def _default_dtype(device: torch.device) -> torch.dtype:
    if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.bfloat16
    return torch.float32
