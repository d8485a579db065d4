"""Pairwise overlap of boxes: areas, intersections, and the four measures of the IoU family."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ssd_ops import checks
from ssd_ops.dtypes import compute_dtype, floating
from ssd_ops.sizes import same_sizes

EPSILON = 1e-7  # torchvision's, in the denominators of distance and complete IoU
FORMATS = ("xyxy", "xywh", "cxcywh")
METRICS = ("box_iou", "generalized_box_iou", "distance_box_iou", "complete_box_iou")


def area(boxes: Tensor) -> Tensor:
    """Returns width times height, `[..., N]`; a box with one inverted side has a negative area."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def clamp_to_zero(sides: Tensor) -> Tensor:
    """Returns `sides`, 0 where negative; the gradient passes at 0 (with `clamp` that depends on the version of torch)."""
    return torch.where(sides < 0, 0, sides)


def intersection_and_union(
    boxes1: Tensor,  # [..., N, 4] xyxy
    boxes2: Tensor,  # [..., M, 4]
) -> tuple[Tensor, Tensor]:
    """Returns the areas `[..., N, M]` of intersection and union."""
    top_left = torch.max(boxes1[..., :, None, :2], boxes2[..., None, :, :2])
    bottom_right = torch.min(boxes1[..., :, None, 2:], boxes2[..., None, :, 2:])
    sides = clamp_to_zero(bottom_right - top_left)
    inter = sides[..., 0] * sides[..., 1]
    union = area(boxes1)[..., :, None] + area(boxes2)[..., None, :] - inter
    return inter, union


def ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    """Returns the quotient, 0 where the denominator is 0 (and no NaN in its gradient)."""
    empty = denominator == 0
    return torch.where(empty, 0, numerator / torch.where(empty, 1, denominator))


def _enclosing_sides(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """Returns width and height `[..., N, M, 2]` of the smallest box that encloses two boxes."""
    top_left = torch.min(boxes1[..., :, None, :2], boxes2[..., None, :, :2])
    bottom_right = torch.max(boxes1[..., :, None, 2:], boxes2[..., None, :, 2:])
    return clamp_to_zero(bottom_right - top_left)


def as_corners(name: str, boxes: Tensor, fmt: str) -> Tensor:
    """Returns boxes `[..., N, 4]` of one of the three formats as xyxy, in the computed dtype."""
    if fmt not in FORMATS:
        raise ValueError(f"fmt must be one of {', '.join(FORMATS)}, got {fmt}")
    checks.shape(name, boxes, "[..., N, 4]", boxes.dim() >= 2 and boxes.shape[-1] == 4)
    checks.floating(name, boxes)
    if fmt == "xyxy":
        return boxes
    boxes = boxes.to(compute_dtype(boxes))
    origin, size = boxes[..., :2], boxes[..., 2:]
    if fmt == "xywh":
        return torch.cat([origin, origin + size], dim=-1)
    return torch.cat([origin - size / 2, origin + size / 2], dim=-1)


def checked(boxes1: Tensor, boxes2: Tensor) -> tuple[Tensor, Tensor]:
    """Validates two sets of boxes; returns them in the computed dtype."""
    boxes1, boxes2 = floating("boxes1", boxes1), floating("boxes2", boxes2)
    for name, boxes in (("boxes1", boxes1), ("boxes2", boxes2)):
        checks.shape(name, boxes, "[..., N, 4]", boxes.dim() >= 2 and boxes.shape[-1] == 4)
        checks.floating(name, boxes)
    checks.same_device("boxes2", boxes2, "boxes1", boxes1)
    if not same_sizes(boxes1.shape[:-2], boxes2.shape[:-2]):
        checks.fail(
            f"boxes2 must have the leading dimensions of boxes1, {list(boxes1.shape[:-2])}, got {list(boxes2.shape[:-2])}"
        )
    dtype = compute_dtype(boxes1, boxes2)
    return boxes1.to(dtype), boxes2.to(dtype)


def box_iou(
    boxes1: Tensor,  # [..., N, 4] xyxy
    boxes2: Tensor,  # [..., M, 4]
    fmt: str = "xyxy",
    *,
    out: Tensor | None = None,  # [..., N, M]
) -> Tensor:
    """Returns intersection over union `[..., N, M]`; see `ssd_ops.box_iou`."""
    given1, given2 = boxes1, boxes2
    if fmt != "xyxy":
        boxes1, boxes2 = (
            as_corners(name, floating(name, boxes), fmt) for name, boxes in (("boxes1", boxes1), ("boxes2", boxes2))
        )
    boxes1, boxes2 = checked(boxes1, boxes2)
    if out is not None:
        checks.tensor("out", out)
        check_out(out, boxes1, boxes2)
        checks.writable("out", out, boxes1=given1, boxes2=given2)
        checks.no_shared_memory("out", out, boxes1=given1, boxes2=given2)
    iou = ratio(*intersection_and_union(boxes1, boxes2))
    return iou if out is None else out.copy_(iou)


def check_out(out: Tensor, boxes1: Tensor, boxes2: Tensor) -> None:
    """Validates the `out` of `box_iou` for boxes in the computed dtype."""
    expected = [*boxes1.shape[:-1], boxes2.shape[-2]]
    checks.shape("out", out, str(expected), same_sizes(out.shape, expected))
    if out.dtype != boxes1.dtype:
        checks.fail(f"out must be {checks.dtype_name(boxes1.dtype)}, got {checks.dtype_name(out.dtype)}")
    checks.same_device("out", out, "boxes1", boxes1)
    if not out.is_contiguous():
        checks.fail(f"out must be contiguous, got strides {list(out.stride())}")


def generalized_box_iou(
    boxes1: Tensor,  # [..., N, 4] xyxy
    boxes2: Tensor,  # [..., M, 4]
) -> Tensor:
    """Returns IoU minus the fraction of the enclosing box that neither covers; see `ssd_ops.generalized_box_iou`."""
    boxes1, boxes2 = checked(boxes1, boxes2)
    inter, union = intersection_and_union(boxes1, boxes2)
    sides = _enclosing_sides(boxes1, boxes2)
    enclosing = sides[..., 0] * sides[..., 1]
    return ratio(inter, union) - ratio(enclosing - union, enclosing)


def distance_box_iou(
    boxes1: Tensor,  # [..., N, 4] xyxy
    boxes2: Tensor,  # [..., M, 4]
    eps: float = EPSILON,
) -> Tensor:
    """Returns IoU minus squared center distance over squared diagonal; see `ssd_ops.distance_box_iou`."""
    boxes1, boxes2 = checked(boxes1, boxes2)
    sides = _enclosing_sides(boxes1, boxes2)
    diagonal = sides[..., 0] * sides[..., 0] + sides[..., 1] * sides[..., 1] + eps
    centers1 = (boxes1[..., :2] + boxes1[..., 2:]) / 2
    centers2 = (boxes2[..., :2] + boxes2[..., 2:]) / 2
    offset = centers1[..., :, None, :] - centers2[..., None, :, :]
    distance = offset[..., 0] * offset[..., 0] + offset[..., 1] * offset[..., 1]
    return ratio(*intersection_and_union(boxes1, boxes2)) - distance / diagonal


def complete_box_iou(
    boxes1: Tensor,  # [..., N, 4] xyxy
    boxes2: Tensor,  # [..., M, 4]
    eps: float = EPSILON,
) -> Tensor:
    """Returns distance IoU minus a penalty for different aspect ratios; see `ssd_ops.complete_box_iou`."""
    boxes1, boxes2 = checked(boxes1, boxes2)
    iou = ratio(*intersection_and_union(boxes1, boxes2))
    angle1 = _aspect_angle(boxes1)[..., :, None]
    angle2 = _aspect_angle(boxes2)[..., None, :]
    difference = (4 / math.pi**2) * (angle1 - angle2) * (angle1 - angle2)
    weight = (difference / (1 - iou + difference + eps)).detach()
    return distance_box_iou(boxes1, boxes2, eps) - weight * difference


def _aspect_angle(boxes: Tensor) -> Tensor:
    """Returns atan(width / height) `[..., N]`; 0 for a box that is a point.

    The angle of a horizontal line is pi / 2 or -pi / 2. Its gradient, and that of flat boxes, is that of -atan(height /
    width): no ratio overflows, and none is 0 / 0.
    """
    width = boxes[..., 2] - boxes[..., 0]
    height = boxes[..., 3] - boxes[..., 1]
    line = (height.abs() <= torch.finfo(boxes.dtype).eps * width.abs()) & (width != 0)
    flat = line | (height == 0)
    upright = torch.atan(torch.where(flat, 0, width) / torch.where(flat, 1, height))
    angle = torch.atan(width.detach() / height.detach())
    # atan(w / h) = +-pi / 2 - atan(h / w)
    rest = torch.atan(torch.where(line, height, 0) / torch.where(line, width, 1))
    return torch.where(line, angle + (rest.detach() - rest), upright)


def grad_box_iou(
    grad: Tensor,  # [..., N, M]
    boxes1: Tensor,  # [..., N, 4] xyxy
    boxes2: Tensor,  # [..., M, 4]
    metric: str,
) -> tuple[Tensor, Tensor]:
    """Returns the gradients of one of the four measures for both sets of boxes, in the dtype of the boxes."""
    checks.one_of("metric", metric, METRICS)
    measure = globals()[metric]
    with torch.enable_grad():
        inputs = [boxes.detach().requires_grad_() for boxes in (boxes1, boxes2)]
        result = measure(*inputs)
        checks.gradient(grad, "boxes1", boxes1, result.shape)
        grads = torch.autograd.grad(result, inputs, grad.to(result.dtype))
    return grads[0], grads[1]
