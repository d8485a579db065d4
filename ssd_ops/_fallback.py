"""The reference under the schemas of the ops: positional arguments in, plain tuples out, nothing else."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ssd_ops import reference
from ssd_ops.reference import (
    box_iou,
    complete_box_iou,
    decode_boxes,
    distance_box_iou,
    encode_boxes,
    generalized_box_iou,
    grad_multibox_loss,
)
from ssd_ops.reference import multibox_loss_parts as multibox_loss
from ssd_ops.reference.detection import detect_parts
from ssd_ops.reference.soft_suppression import soft_nms_parts
from ssd_ops.reference.suppression import multiclass_nms_parts

__all__ = [
    "batched_nms",
    "box_iou",
    "box_iou_out",
    "complete_box_iou",
    "decode_boxes",
    "detect",
    "distance_box_iou",
    "encode_boxes",
    "generalized_box_iou",
    "grad_box_iou",
    "grad_decode_boxes",
    "grad_encode_boxes",
    "grad_multibox_loss",
    "match_priors",
    "multibox_loss",
    "multiclass_nms",
    "nms",
    "render_images",
    "soft_nms",
]

Found = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


def _with_autograd(gradient: Callable[..., tuple[Tensor, Tensor]]) -> Callable[..., tuple[Tensor, Tensor]]:
    """Return `gradient`, which differentiates by autograd, so that it does so also below autograd, where ops run."""

    @functools.wraps(gradient)
    def call(*args: Any) -> tuple[Tensor, Tensor]:
        with torch._C._SetExcludeDispatchKeyGuard(torch._C.DispatchKey.AutogradFunctionality, False):
            return gradient(*args)

    return call


def _flat(parts: Callable[..., tuple[reference.Detections, Tensor]]) -> Callable[..., Found]:
    def call(*args: Any) -> Found:
        found, rows = parts(*args)
        return *found, rows

    return call


multiclass_nms, soft_nms, detect = _flat(multiclass_nms_parts), _flat(soft_nms_parts), _flat(detect_parts)

grad_box_iou = _with_autograd(reference.grad_box_iou)
grad_encode_boxes = _with_autograd(reference.grad_encode_boxes)
grad_decode_boxes = _with_autograd(reference.grad_decode_boxes)


def box_iou_out(boxes1: Tensor, boxes2: Tensor, out: Tensor) -> None:
    reference.box_iou(boxes1, boxes2, out=out)


def match_priors(
    gt_boxes: Tensor,
    gt_labels: Tensor,
    offsets: Tensor,
    ignore: Tensor | None,
    priors: Tensor,
    iou_threshold: float,
    rule: str,
    match_equal: bool,
    variances: Sequence[float],
) -> tuple[Tensor, Tensor, Tensor]:
    matches = reference.match_priors(
        gt_boxes,
        gt_labels,
        priors,
        offsets=offsets,
        ignore=ignore,
        iou_threshold=iou_threshold,
        rule=rule,
        match_equal=match_equal,
        variances=variances,
    )
    return matches.labels, matches.gt_index, matches.loc_targets


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, suppress_equal: bool) -> Tensor:
    return reference.nms(boxes, scores, iou_threshold, suppress_equal=suppress_equal)


def batched_nms(boxes: Tensor, scores: Tensor, idxs: Tensor, iou_threshold: float, suppress_equal: bool) -> Tensor:
    return reference.batched_nms(boxes, scores, idxs, iou_threshold, suppress_equal=suppress_equal)


def render_images(
    pixels: Tensor,
    offsets: Tensor,
    sizes: Tensor,
    crops: Tensor,
    flip: Tensor | None,
    color_matrices: Tensor | None,
    hue: Tensor | None,
    size: int,
    antialias: bool,
    fill: Sequence[float],
    mean: Sequence[float],
    std: Sequence[float],
    dtype: str,
) -> Tensor:
    return reference.render_images(
        pixels,
        crops,
        size,
        offsets=offsets,
        sizes=sizes,
        flip=flip,
        color_matrices=color_matrices,
        hue=hue,
        antialias=antialias,
        fill=fill,
        mean=mean,
        std=std,
        dtype=getattr(torch, dtype),
    )
