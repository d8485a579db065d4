"""The sizes of the feature maps of a backbone, without computing them."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call
from torch.overrides import TorchFunctionMode

from ssd.models.extractor import Extractor


class _ShapesOnly(TorchFunctionMode):
    """Computes only the shapes of convolutions, and skips functions that keep the shape."""

    kept = {F.batch_norm, F.hardsigmoid, F.hardswish, F.hardtanh, F.relu, F.relu6, F.silu}  # noqa: RUF012  never changed

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in self.kept and args:
            return args[0]
        if func is F.conv2d and len(args) == 7 and not isinstance(args[4], str):
            return _conv_shape(*args)
        return func(*args, **(kwargs or {}))


def _conv_shape(x: Tensor, weight: Tensor, bias: Any, stride: Any, padding: Any, dilation: Any, groups: Any) -> Tensor:
    """Returns an empty tensor with the shape of the result of `F.conv2d`."""
    sides, options = [], [(given,) * 2 if isinstance(given, int) else given for given in (stride, padding, dilation)]
    for side, kernel, step, pad, spread in zip(x.shape[2:], weight.shape[2:], *options, strict=True):
        free = side + 2 * pad - spread * (kernel - 1) - 1
        if free < 0:
            raise RuntimeError(f"a kernel of {kernel} is larger than its input of {side + 2 * pad}")
        sides.append(free // step + 1)
    return x.new_empty(len(x), len(weight), *sides)


def feature_sizes(backbone: Extractor, image_size: int) -> list[tuple[int, int]]:
    """Returns (rows, cols) of each level for a square input, from a run that computes nothing.

    An empty batch on the CPU needs no weights, so one zero stands for each; on the meta device, kernels are slow Python
    and import torch._dynamo.
    """
    device = "cpu" if backbone.maps_empty_batches else "meta"
    zeros = {
        name: torch.zeros((), dtype=value.dtype, device=device).expand(value.shape)
        for name, value in (*backbone.named_parameters(), *backbone.named_buffers())
    }
    images = torch.empty(0 if device == "cpu" else 1, 3, image_size, image_size, device=device)
    training = backbone.training
    backbone.eval()
    try:
        with torch.no_grad(), _ShapesOnly():
            features = functional_call(backbone, zeros, images)
    except RuntimeError as error:
        raise ValueError(f"image_size {image_size} is too small for {type(backbone).__name__}: {error}") from error
    finally:
        backbone.train(training)
    return [tuple(f.shape[-2:]) for f in features]
