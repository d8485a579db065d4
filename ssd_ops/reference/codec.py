"""Encoding of boxes as deltas from priors, and decoding, in the three code types of Caffe SSD."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ssd_ops import checks
from ssd_ops.dtypes import compute_dtype, floating
from ssd_ops.sizes import same_sizes

CODE_TYPES = ("center_size", "corner", "corner_size")
# torchvision's clamp: no decoded box is more than 62.5 times its prior. At exactly the maximum the gradient passes.
MAX_LOG_SIZE = math.log(1000 / 16)


def _checked(
    name: str, boxes: Tensor, priors: Tensor, variances: Sequence[float], code_type: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns `boxes` and `priors` in the computed dtype, and the 4 variances as a tensor."""
    boxes, priors = floating(name, boxes), floating("priors", priors)
    values = check(name, boxes, priors, variances, code_type)
    dtype = compute_dtype(boxes, priors)
    # not torch.tensor, which no decomposition of a traced program may contain
    variance = torch.stack([boxes.new_full((), value, dtype=dtype) for value in values])
    return boxes.to(dtype), priors.to(dtype), variance


def check(name: str, boxes: Tensor, priors: Tensor, variances: Sequence[float], code_type: str) -> list[float]:
    """Validates the arguments of encoding and decoding; returns the 4 variances."""
    checks.shape(name, boxes, "[..., 4]", boxes.dim() >= 1 and boxes.shape[-1] == 4)
    checks.floating(name, boxes)
    checks.shape("priors", priors, "[..., 4]", priors.dim() >= 1 and priors.shape[-1] == 4)
    checks.floating("priors", priors)
    checks.same_device("priors", priors, name, boxes)
    if priors.dim() > boxes.dim() or not same_sizes(boxes.shape[boxes.dim() - priors.dim() :], priors.shape):
        checks.fail(f"priors must have the last dimensions of {name}, {list(boxes.shape)}, got {list(priors.shape)}")
    values = checks.four_variances(variances)
    checks.variances(values)
    checks.one_of("code_type", code_type, CODE_TYPES)
    return values


def center_and_size(boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Returns centers and sizes, `[..., 2]` each."""
    return (boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]


def encode_boxes(
    boxes: Tensor,  # [..., P, 4] xyxy
    priors: Tensor,  # [P, 4] xyxy, or as boxes
    variances: Sequence[float] = (0.1, 0.2),
    code_type: str = "center_size",
) -> Tensor:
    """Returns the deltas `[..., 4]` of boxes from priors; see `ssd_ops.encode_boxes`."""
    boxes, priors, variance = _checked("boxes", boxes, priors, variances, code_type)
    center, size = center_and_size(boxes)
    prior_center, prior_size = center_and_size(priors)
    if code_type == "center_size":
        delta = torch.cat([(center - prior_center) / prior_size, torch.log(size / prior_size)], dim=-1)
    elif code_type == "corner":
        delta = boxes - priors
    else:
        delta = (boxes - priors) / torch.cat([prior_size, prior_size], dim=-1)
    return delta / variance


def decode_boxes(
    deltas: Tensor,  # [..., P, 4]
    priors: Tensor,  # [P, 4] xyxy, or as deltas
    variances: Sequence[float] = (0.1, 0.2),
    code_type: str = "center_size",
) -> Tensor:
    """Returns the boxes `[..., 4]` of deltas from priors; see `ssd_ops.decode_boxes`."""
    deltas, priors, variance = _checked("deltas", deltas, priors, variances, code_type)
    prior_center, prior_size = center_and_size(priors)
    step = deltas * variance
    if code_type == "center_size":
        center = step[..., :2] * prior_size + prior_center
        log_size = torch.where(step[..., 2:] > MAX_LOG_SIZE, MAX_LOG_SIZE, step[..., 2:])
        half = torch.exp(log_size) * prior_size / 2
        return torch.cat([center - half, center + half], dim=-1)
    if code_type == "corner":
        return priors + step
    return priors + step * torch.cat([prior_size, prior_size], dim=-1)


def grad_encode_boxes(
    grad: Tensor,  # [..., P, 4]
    boxes: Tensor,  # [..., P, 4] xyxy
    priors: Tensor,  # [P, 4] xyxy, or as boxes
    variances: Sequence[float],
    code_type: str,
) -> tuple[Tensor, Tensor]:
    """Returns the gradients of `encode_boxes` for boxes and priors, each in its dtype."""
    return _grads(encode_boxes, "boxes", grad, boxes, priors, variances, code_type)


def grad_decode_boxes(
    grad: Tensor,  # [..., P, 4]
    deltas: Tensor,  # [..., P, 4]
    priors: Tensor,  # [P, 4] xyxy, or as deltas
    variances: Sequence[float],
    code_type: str,
) -> tuple[Tensor, Tensor]:
    """Returns the gradients of `decode_boxes` for deltas and priors, each in its dtype."""
    return _grads(decode_boxes, "deltas", grad, deltas, priors, variances, code_type)


def _grads(
    op: Callable[..., Tensor],
    name: str,
    grad: Tensor,
    boxes: Tensor,
    priors: Tensor,
    variances: Sequence[float],
    code_type: str,
) -> tuple[Tensor, Tensor]:
    with torch.enable_grad():
        inputs = [tensor.detach().requires_grad_() for tensor in (boxes, priors)]
        result = op(*inputs, variances, code_type)
        checks.gradient(grad, name, boxes, boxes.shape)
        grads = torch.autograd.grad(result, inputs, grad.to(result.dtype))
    return grads[0], grads[1]
