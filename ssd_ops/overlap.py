"""Pairwise overlap of boxes: IoU and its three variants."""

from __future__ import annotations

import torch
from torch import Tensor

from ssd_ops import checks, reference
from ssd_ops._autograd import call
from ssd_ops.dtypes import compute_dtype, floating
from ssd_ops.reference.overlap import EPSILON, as_corners
from ssd_ops.sizes import same_sizes


def box_iou(
    boxes1: Tensor,  # [..., N, 4] xyxy
    boxes2: Tensor,  # [..., M, 4]
    fmt: str = "xyxy",
    *,
    out: Tensor | None = None,  # [..., N, M]
) -> Tensor:
    """Returns the intersection over union (IoU) of every box of `boxes1` with every box of `boxes2`.

    Two boxes whose union has no area have IoU 0, not NaN. A box with an inverted side overlaps nothing; a box with a NaN
    gives NaN. No matrix but the result is allocated. Gradients are finite where areas and their reciprocals are: for
    coordinates of 1e19 or more and areas below 1e-38 (in float32) they may be infinite or NaN, also for the boxes that such
    a box is compared with.

    Args:
        boxes1: `[..., N, 4]`, any unit and dtype; see `ssd_ops` for the dtype of the result.
        boxes2: `[..., M, 4]`, same unit; leading dimensions broadcast against those of `boxes1`.
        fmt: `xyxy`, `xywh` or `cxcywh`. The latter two are converted to xyxy first, in the dtype of the result. Rotated
            boxes are not supported.
        out: `[..., N, M]`, contiguous, float32 (float64 for float64 boxes): receives the result, to save an allocation.
            Gradients do not flow through it: no input may require one, and it may not share memory with an input.

    Returns:
        `[..., N, M]`: `iou[n, m]` belongs to box n of `boxes1` and box m of `boxes2`.

    Raises:
        RuntimeError: Invalid shape, dtype or device.
        TypeError: An argument is no tensor, or a sparse one.
        ValueError: `fmt` is none of the three.

    Source: `torchvision.ops.box_iou`, bit for bit where the union has an area and `fmt` is xyxy.
    """
    boxes1, boxes2 = _aligned(boxes1, boxes2, fmt)
    if out is None:
        result: Tensor = call("box_iou", boxes1, boxes2)
        return result
    checks.tensor("out", out)
    call("box_iou_out", boxes1, boxes2, out)
    return out


def generalized_box_iou(
    boxes1: Tensor,  # [..., N, 4] xyxy
    boxes2: Tensor,  # [..., M, 4]
) -> Tensor:
    """Returns the generalized IoU, in -1 .. 1: IoU minus the fraction of the enclosing box that neither box covers.

    Args:
        boxes1: As in `box_iou`.
        boxes2: As in `box_iou`.

    Returns:
        `[..., N, M]`; 0 for two boxes that are the same point.

    Raises:
        RuntimeError: As in `box_iou`.

    Source: `torchvision.ops.generalized_box_iou`; Rezatofighi et al. 2019.
    """
    result: Tensor = call("generalized_box_iou", *_aligned(boxes1, boxes2))
    return result


def distance_box_iou(
    boxes1: Tensor,  # [..., N, 4] xyxy
    boxes2: Tensor,  # [..., M, 4]
    eps: float = EPSILON,
) -> Tensor:
    """Returns the distance IoU: IoU minus squared center distance over squared diagonal of the enclosing box plus `eps`.

    Args:
        boxes1: As in `box_iou`.
        boxes2: As in `box_iou`.
        eps: Keeps the denominator above 0; any other value than 1e-7 runs as plain PyTorch.

    Returns:
        `[..., N, M]`.

    Raises:
        RuntimeError: As in `box_iou`.

    Source: `torchvision.ops.distance_box_iou`; Zheng et al. 2020.
    """
    boxes1, boxes2 = _aligned(boxes1, boxes2)
    if checks.real("eps", eps.detach() if isinstance(eps, Tensor) else eps) != EPSILON:
        return reference.distance_box_iou(boxes1, boxes2, eps)
    result: Tensor = call("distance_box_iou", boxes1, boxes2)
    return result


def complete_box_iou(
    boxes1: Tensor,  # [..., N, 4] xyxy
    boxes2: Tensor,  # [..., M, 4]
    eps: float = EPSILON,
) -> Tensor:
    """Returns the complete IoU: distance IoU minus a penalty for different aspect ratios.

    The weight of the penalty is a constant in gradients.

    Args:
        boxes1: As in `box_iou`.
        boxes2: As in `box_iou`.
        eps: Keeps the denominators above 0; any other value than 1e-7 runs as plain PyTorch.

    Returns:
        `[..., N, M]`; a box that is a point has the aspect angle 0.

    Raises:
        RuntimeError: As in `box_iou`.

    Source: `torchvision.ops.complete_box_iou`; Zheng et al. 2020.
    """
    boxes1, boxes2 = _aligned(boxes1, boxes2)
    if checks.real("eps", eps.detach() if isinstance(eps, Tensor) else eps) != EPSILON:
        return reference.complete_box_iou(boxes1, boxes2, eps)
    result: Tensor = call("complete_box_iou", boxes1, boxes2)
    return result


def _aligned(boxes1: Tensor, boxes2: Tensor, fmt: str = "xyxy") -> tuple[Tensor, Tensor]:
    """Returns both as xyxy in one floating dtype with equal leading dimensions."""
    boxes1, boxes2 = floating("boxes1", boxes1), floating("boxes2", boxes2)
    if boxes1.dtype != boxes2.dtype and boxes1.dtype in checks.FLOATS and boxes2.dtype in checks.FLOATS:
        dtype = compute_dtype(boxes1, boxes2)
        boxes1, boxes2 = boxes1.to(dtype), boxes2.to(dtype)
    if fmt != "xyxy":
        boxes1, boxes2 = as_corners("boxes1", boxes1, fmt), as_corners("boxes2", boxes2, fmt)
    if boxes1.dim() >= 2 and boxes2.dim() >= 2 and not same_sizes(boxes1.shape[:-2], boxes2.shape[:-2]):
        try:
            leading = torch.broadcast_shapes(boxes1.shape[:-2], boxes2.shape[:-2])
        except RuntimeError:
            return boxes1, boxes2  # the op raises the error
        boxes1 = boxes1.expand(*leading, *boxes1.shape[-2:])
        boxes2 = boxes2.expand(*leading, *boxes2.shape[-2:])
    return boxes1, boxes2
