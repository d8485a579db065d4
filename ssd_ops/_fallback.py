"""The reference under the schemas of the ops: positional arguments in, plain tuples out, nothing else."""

from __future__ import annotations

from collections.abc import Sequence

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
    grad_box_iou,
    grad_decode_boxes,
    grad_encode_boxes,
    grad_multibox_loss,
)
from ssd_ops.reference import multibox_loss_parts as multibox_loss

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

Four = tuple[Tensor, Tensor, Tensor, Tensor]


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
    positive_at: str,
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
        positive_at=positive_at,
        variances=variances,
    )
    return matches.labels, matches.gt_index, matches.loc_targets


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, suppress_at: str) -> Tensor:
    return reference.nms(boxes, scores, iou_threshold, suppress_at=suppress_at)


def batched_nms(boxes: Tensor, scores: Tensor, idxs: Tensor, iou_threshold: float, suppress_at: str) -> Tensor:
    return reference.batched_nms(boxes, scores, idxs, iou_threshold, suppress_at=suppress_at)


def multiclass_nms(
    boxes: Tensor,
    scores: Tensor,
    score_threshold: float,
    iou_threshold: float,
    candidates_per_class: int,
    max_detections: int,
    suppress_at: str,
    min_size: float,
) -> Four:
    found = reference.multiclass_nms(
        boxes,
        scores,
        score_threshold=score_threshold,
        iou_threshold=iou_threshold,
        candidates_per_class=candidates_per_class,
        max_detections=max_detections,
        suppress_at=suppress_at,
        min_size=min_size,
    )
    return found.boxes, found.scores, found.labels, found.counts


def soft_nms(
    boxes: Tensor,
    scores: Tensor,
    method: str,
    sigma: float,
    iou_threshold: float,
    score_threshold: float,
    max_detections: int,
) -> Four:
    found = reference.soft_nms(
        boxes,
        scores,
        method=method,
        sigma=sigma,
        iou_threshold=iou_threshold,
        score_threshold=score_threshold,
        max_detections=max_detections,
    )
    return found.boxes, found.scores, found.labels, found.counts


def detect(
    loc: Tensor,
    logits: Tensor,
    priors: Tensor,
    score_threshold: float,
    iou_threshold: float,
    candidates_per_class: int,
    max_detections: int,
    variances: Sequence[float],
    clip: bool,
    suppress_at: str,
    classes: str,
    min_size: float,
) -> Four:
    found = reference.detect(
        loc,
        logits,
        priors,
        score_threshold=score_threshold,
        iou_threshold=iou_threshold,
        candidates_per_class=candidates_per_class,
        max_detections=max_detections,
        variances=variances,
        clip=clip,
        suppress_at=suppress_at,
        classes=classes,
        min_size=min_size,
    )
    return found.boxes, found.scores, found.labels, found.counts


def render_images(
    pixels: Tensor,
    offsets: Tensor,
    sizes: Tensor,
    windows: Tensor,
    flip: Tensor | None,
    colours: Tensor | None,
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
        windows,
        size,
        offsets=offsets,
        sizes=sizes,
        flip=flip,
        colours=colours,
        hue=hue,
        antialias=antialias,
        fill=fill,
        mean=mean,
        std=std,
        dtype=getattr(torch, dtype),
    )
