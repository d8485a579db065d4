"""Non-maximum suppression: one set of boxes, boxes of several classes, and padded batches."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ssd_ops import checks
from ssd_ops.dtypes import class_ids, compute_dtype, floating
from ssd_ops.reference.arithmetic import above, at_or_above, passes
from ssd_ops.reference.outputs import first, returns
from ssd_ops.reference.overlap import intersection_and_union
from ssd_ops.results import Detections
from ssd_ops.sizes import same_sizes

MAX_BOXES = 2**31  # ranks of kernels are 32 bits wide


def nms(
    boxes: Tensor,  # [N, 4] xyxy
    scores: Tensor,  # [N]
    iou_threshold: float,
    *,
    suppress_equal: bool = False,
) -> Tensor:
    """Returns the indices of the kept boxes by descending score; see `ssd_ops.nms`."""
    check_box_count(boxes)
    boxes, scores = floating("boxes", boxes), floating("scores", scores)
    check_nms(boxes, scores, iou_threshold, suppress_equal)
    boxes = boxes.to(compute_dtype(boxes))
    remaining = scores.sort(descending=True, stable=True).indices
    kept = []
    while len(remaining):
        best, remaining = remaining[0], remaining[1:]
        kept.append(best)
        inter, union = intersection_and_union(boxes[best][None], boxes[remaining])
        remaining = remaining[~passes((inter / union)[0], iou_threshold, suppress_equal)]
    return torch.stack(kept) if kept else remaining


def batched_nms(
    boxes: Tensor,  # [N, 4] xyxy
    scores: Tensor,  # [N]
    idxs: Tensor,  # [N]
    iou_threshold: float,
    *,
    suppress_equal: bool = False,
) -> Tensor:
    """Returns the indices of the kept boxes of each class by descending score; see `ssd_ops.batched_nms`."""
    check_box_count(boxes)
    boxes = floating("boxes", boxes)
    if boxes.shape[-1:] != (4,) and boxes.numel() == 0:
        return boxes.new_empty(0, dtype=torch.int64)
    scores, idxs = floating("scores", scores), class_ids("idxs", idxs)
    check_nms(boxes, scores, iou_threshold, suppress_equal)
    check_idxs(idxs, boxes)
    keep = torch.zeros_like(idxs, dtype=torch.bool)
    for label in idxs.unique():
        members = (idxs == label).nonzero()[:, 0]
        keep[members[nms(boxes[members], scores[members], iou_threshold, suppress_equal=suppress_equal)]] = True
    order = scores.sort(descending=True, stable=True).indices
    return order[keep[order]]


@returns(first)
def multiclass_nms(
    boxes: Tensor,  # [B, N, 4] or [B, N, C, 4] xyxy
    scores: Tensor,  # [B, N, C]
    *,
    score_threshold: float,
    iou_threshold: float,
    candidates_per_class: int,
    max_detections: int,
    suppress_equal: bool = False,
    min_size: float = 0.0,
) -> tuple[Detections, Tensor]:
    """Returns the best boxes of every class and image; see `ssd_ops.multiclass_nms`.

    The second output is the box that each detection came from: int64 `[B, D]`, zero-padded.
    """
    boxes, scores = floating("boxes", boxes), floating("scores", scores)
    check_scored(boxes, scores, score_threshold, iou_threshold, max_detections)
    check_candidates(candidates_per_class, suppress_equal, min_size)
    dtype = compute_dtype(boxes, scores)
    boxes, scores = boxes.to(dtype), scores.to(dtype)

    def one_class(box: Tensor, score: Tensor) -> tuple[Tensor, Tensor]:
        candidates = (above(score, score_threshold) & _large(box, min_size)).nonzero()[:, 0]
        order = score[candidates].sort(descending=True, stable=True).indices
        candidates = candidates[order[:candidates_per_class]]
        kept = candidates[nms(box[candidates], score[candidates], iou_threshold, suppress_equal=suppress_equal)]
        return kept, score[kept]

    return each_class(boxes, scores, max_detections, one_class)


def _large(boxes: Tensor, min_size: float) -> Tensor:
    """Returns whether both sides of each box are at least `min_size`, `[N]`; 0 accepts inverted and NaN boxes, too."""
    sides = boxes[:, 2:] - boxes[:, :2]
    return at_or_above(sides, min_size).all(dim=1) | (min_size == 0)


def each_class(  # type: ignore[no-untyped-def]
    boxes: Tensor, scores: Tensor, max_detections: int, one_class
) -> tuple[Detections, Tensor]:
    """Runs `one_class` on each image and foreground class; merges by descending score, then class, then its order."""
    num_images, _, num_classes = scores.shape
    result = Detections(
        boxes.new_zeros(num_images, max_detections, 4),
        scores.new_zeros(num_images, max_detections),
        scores.new_zeros(num_images, max_detections, dtype=torch.int64),
        scores.new_zeros(num_images, dtype=torch.int64),
    )
    box_indices = torch.zeros_like(result.labels)
    for b in range(num_images):
        found_boxes, found_scores = [boxes.new_zeros(0, 4)], [scores.new_zeros(0)]
        found_labels, found_indices = [box_indices[0, :0]], [box_indices[0, :0]]
        for c in range(1, num_classes):
            box = boxes[b] if boxes.dim() == 3 else boxes[b, :, c]
            kept, score = one_class(box, scores[b, :, c])
            found_boxes.append(box[kept])
            found_scores.append(score)
            found_labels.append(torch.full_like(kept, c))
            found_indices.append(kept)
        merged = torch.cat(found_scores)
        order = merged.sort(descending=True, stable=True).indices[:max_detections]
        result.counts[b] = len(order)
        result.boxes[b, : len(order)] = torch.cat(found_boxes)[order]
        result.scores[b, : len(order)] = merged[order]
        result.labels[b, : len(order)] = torch.cat(found_labels)[order]
        box_indices[b, : len(order)] = torch.cat(found_indices)[order]
    return result, box_indices


def check_box_count(boxes: object) -> None:
    """Raises for too many boxes before integers and class ids are converted, which allocates memory for them."""
    if torch.compiler.is_compiling():  # where it would limit the sizes of a program; the kernels check it, too
        return
    if isinstance(boxes, Tensor) and boxes.dim() == 2 and boxes.shape[0] >= MAX_BOXES:
        checks.fail(f"boxes must have fewer than {MAX_BOXES} rows, got {boxes.shape[0]}")


def check_nms(boxes: Tensor, scores: Tensor, iou_threshold: float, suppress_equal: bool) -> None:
    """Validates the arguments of `nms`."""
    checks.boxes("boxes", boxes, "[N, 4]", 2)
    checks.as_many("scores", scores, boxes.shape[0])
    checks.floating("scores", scores)
    checks.same_device("scores", scores, "boxes", boxes)
    checks.number("iou_threshold", iou_threshold)
    checks.boolean("suppress_equal", suppress_equal)


def check_idxs(idxs: Tensor, boxes: Tensor) -> None:
    """Validates the class ids of `batched_nms`."""
    checks.as_many("idxs", idxs, boxes.shape[0])
    checks.int64("idxs", idxs)
    checks.same_device("idxs", idxs, "boxes", boxes)


def check_candidates(candidates_per_class: int, suppress_equal: bool, min_size: float) -> None:
    """Validates options of `multiclass_nms` and `detect`."""
    checks.at_least_one("candidates_per_class", candidates_per_class)
    checks.boolean("suppress_equal", suppress_equal)
    checks.not_negative("min_size", min_size)


def check_thresholds(score_threshold: float, iou_threshold: float, max_detections: int) -> None:
    """Validates the thresholds and limits of all ops on scores."""
    for name, value in (("score_threshold", score_threshold), ("iou_threshold", iou_threshold)):
        checks.number(name, value)
        if math.isinf(value):
            checks.fail(f"{name} must be finite, got {value:g}")
    checks.at_least_one("max_detections", checks.less_than("max_detections", max_detections, 2**31))


def check_scored(
    boxes: Tensor, scores: Tensor, score_threshold: float, iou_threshold: float, max_detections: int
) -> None:
    """Validates boxes, scores and options of `multiclass_nms` and `soft_nms`."""
    checks.shape("scores", scores, "[B, N, C]", scores.dim() == 3)
    checks.floating("scores", scores)
    num_images, num_boxes, num_classes = scores.shape
    shared, by_class = [num_images, num_boxes, 4], [num_images, num_boxes, num_classes, 4]
    checks.shape(
        "boxes", boxes, f"{shared} or {by_class}", same_sizes(boxes.shape, shared if boxes.dim() == 3 else by_class)
    )
    checks.floating("boxes", boxes)
    checks.same_device("scores", scores, "boxes", boxes)
    check_thresholds(score_threshold, iou_threshold, max_detections)
