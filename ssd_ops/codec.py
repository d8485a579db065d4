"""Encoding of boxes as deltas from priors, and decoding."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ssd_ops import checks
from ssd_ops._autograd import call
from ssd_ops.dtypes import floating
from ssd_ops.sizes import same_sizes


def encode_boxes(
    boxes: Tensor,  # [..., P, 4] xyxy
    priors: Tensor,  # [P, 4] xyxy, or as boxes
    variances: Sequence[float] = (0.1, 0.2),
    code_type: str = "center_size",
) -> Tensor:
    """Encodes boxes as deltas from priors.

    `center_size`: center distance over prior size, and log of the size ratio; `corner`: distance of the corners;
    `corner_size`: distance of the corners over prior size. Each is divided by its variance. A box with no area gives
    -inf in the log, an inverted one NaN; a prior with no area divides by zero.

    Args:
        boxes: `[..., P, 4]`, xyxy, in the unit of the priors.
        priors: `[P, 4]` or any shape that broadcasts with that of `boxes`, xyxy.
        variances: `(center, size)`, or four numbers above 0.
        code_type: `center_size`, `corner` or `corner_size`.

    Returns:
        `[..., P, 4]`, float32 (float64 where an input is float64).

    Raises:
        RuntimeError: Invalid shape, dtype, device, variance or code type.

    Source: `EncodeBBox` of Caffe SSD; `center_size` is the code of every SSD.
    """
    boxes, priors = _aligned("boxes", boxes, priors)
    result: Tensor = call("encode_boxes", boxes, priors, checks.four_variances(variances), code_type)
    return result


def decode_boxes(
    deltas: Tensor,  # [..., P, 4]
    priors: Tensor,  # [P, 4] xyxy, or as deltas
    variances: Sequence[float] = (0.1, 0.2),
    code_type: str = "center_size",
) -> Tensor:
    """Decodes deltas from priors into boxes: the inverse of `encode_boxes`.

    In `center_size` the log of the size ratio is clamped to at most log(1000 / 16), so that no exponential overflows.

    Args:
        deltas: `[..., P, 4]`.
        priors: `[P, 4]` or any shape that broadcasts with that of `deltas`, xyxy.
        variances: `(center, size)`, or four numbers above 0.
        code_type: `center_size`, `corner` or `corner_size`.

    Returns:
        `[..., P, 4]`, xyxy, in the unit of the priors; float32 (float64 where an input is float64).

    Raises:
        RuntimeError: Invalid shape, dtype, device, variance or code type.

    Source: `DecodeBBox` of Caffe SSD; the clamp is that of torchvision's `BoxCoder`.
    """
    deltas, priors = _aligned("deltas", deltas, priors)
    result: Tensor = call("decode_boxes", deltas, priors, checks.four_variances(variances), code_type)
    return result


def _aligned(name: str, boxes: Tensor, priors: Tensor) -> tuple[Tensor, Tensor]:
    """Returns both floating, `boxes` expanded so that its last dimensions are those of the priors."""
    boxes, priors = floating(name, boxes), floating("priors", priors)
    if priors.dim() > boxes.dim() or not same_sizes(boxes.shape[boxes.dim() - priors.dim() :], priors.shape):
        try:
            shape = torch.broadcast_shapes(boxes.shape, priors.shape)
        except RuntimeError:
            return boxes, priors  # the op raises the error
        boxes, priors = boxes.expand(shape), priors.expand(shape)
    return boxes, priors
