"""Fake kernels: input validation of every op, and shapes and dtypes of its results, for meta tensors and for tracing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from ssd_ops import checks
from ssd_ops._levels import MAX_LEVELS
from ssd_ops._schemas import Schema, call_by_name
from ssd_ops.dtypes import compute_dtype
from ssd_ops.reference import codec, detection, images, levels, loss, matching, overlap, soft_suppression, suppression

DetectionTensors = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


class _Fake(NamedTuple):
    """Input validation and results of an op; each function gets those arguments of the op that it has parameters for."""

    checks: tuple[Callable[..., Any], ...]
    results: Callable[..., Any]


def implementation(schema: Schema) -> Callable[..., Any]:
    """Returns the fake kernel of an op; that of an op on levels is the one of the op on rows."""
    takes_levels = schema.name.endswith("_levels")
    fake = _FAKES.get(schema.name) or _FAKES[schema.name.removesuffix("_levels")]

    def kernel(*args: Any) -> Any:
        arguments = schema.by_name(args)
        if takes_levels:
            loc, logits = arguments["loc"], arguments["logits"]
            if len(loc) > MAX_LEVELS:
                checks.fail(f"loc must be a list of at most {MAX_LEVELS} tensors, got a list of {len(loc)}")
            arguments["loc"], arguments["logits"] = levels.rows_of_levels(loc, logits)
            if fake.results is _grads_of_levels:
                call_by_name(_check_loss_grad, arguments)
                return _grads_of_levels(loc, logits)
        for check in fake.checks:
            call_by_name(check, arguments)
        return call_by_name(fake.results, arguments)

    return kernel


def _iou(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    return boxes1.new_empty((*boxes1.shape[:-1], boxes2.shape[-2]), dtype=compute_dtype(boxes1, boxes2))


def _check_iou_out(boxes1: Tensor, boxes2: Tensor, out: Tensor) -> None:
    overlap.check_out(out, *overlap.checked(boxes1, boxes2))


def _check_iou_grad(grad: Tensor, boxes1: Tensor, boxes2: Tensor, metric: str) -> None:
    checks.one_of("metric", metric, overlap.METRICS)
    checks.gradient(grad, "boxes1", boxes1, _iou(boxes1, boxes2).shape)


def _check_coded(boxes: Tensor, priors: Tensor, variances: list[float], code_type: str) -> None:
    codec.check("boxes", boxes, priors, variances, code_type)


def _check_deltas(deltas: Tensor, priors: Tensor, variances: list[float], code_type: str) -> None:
    codec.check("deltas", deltas, priors, variances, code_type)


def _matches(gt_boxes: Tensor, gt_labels: Tensor, offsets: Tensor, priors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    shape = (offsets.shape[0] - 1, priors.shape[0])
    index = gt_labels.new_empty(shape)
    return index, torch.empty_like(index), gt_boxes.new_empty((*shape, 4), dtype=compute_dtype(gt_boxes, priors))


def _losses(loc: Tensor, logits: Tensor, loc_targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    dtype = compute_dtype(loc, logits, loc_targets)
    scalar = loc.new_empty((), dtype=dtype)
    return scalar, torch.empty_like(scalar), loc.new_empty(loc.shape[:2], dtype=dtype)


def _check_loss_grad(loc: Tensor, logits: Tensor, loc_targets: Tensor, labels: Tensor, weight: Tensor) -> None:
    others = {"logits": logits, "loc_targets": loc_targets, "labels": labels, "weight": weight}
    for name, tensor in others.items():
        checks.same_device(name, tensor, "loc", loc)


def _kept_of(name: str) -> Callable[[Tensor], Tensor]:
    def kept(boxes: Tensor) -> Tensor:
        if boxes.device.type == "meta" and not isinstance(boxes, FakeTensor):
            checks.fail(
                f"{name} keeps a number of boxes that depends on their values, which tensors on meta do not have"
            )
        return boxes.new_empty((torch.library.get_ctx().new_dynamic_size(),), dtype=torch.int64)

    return kept


def _detections(scores: Tensor, max_detections: int, dtype: torch.dtype) -> DetectionTensors:
    num_images = scores.shape[0]
    labels = scores.new_empty((num_images, max_detections), dtype=torch.int64)
    return (
        scores.new_empty((num_images, max_detections, 4), dtype=dtype),
        scores.new_empty((num_images, max_detections), dtype=dtype),
        labels,
        scores.new_empty((num_images,), dtype=torch.int64),
        torch.empty_like(labels),
    )


def _scored(boxes: Tensor, scores: Tensor, max_detections: int) -> DetectionTensors:
    return _detections(scores, max_detections, compute_dtype(boxes, scores))


def _detected(loc: Tensor, logits: Tensor, priors: Tensor, max_detections: int) -> DetectionTensors:
    return _detections(logits, max_detections, compute_dtype(loc, logits, priors))


def _grads_of_levels(loc: list[Tensor], logits: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    def empty(level: Tensor) -> Tensor:
        num_images, channels, height, width = level.shape
        return level.new_empty((num_images, height, width, channels)).permute(0, 3, 1, 2)

    return [empty(level) for level in loc], [empty(level) for level in logits]


def _images(crops: Tensor, images: Tensor, size: int, dtype: str) -> Tensor:
    return images.new_empty((crops.shape[0], 3, size, size), dtype=getattr(torch, dtype))


def _as_encoded(boxes: Tensor, priors: Tensor) -> Tensor:
    return boxes.new_empty(boxes.shape, dtype=compute_dtype(boxes, priors))


def _as_decoded(deltas: Tensor, priors: Tensor) -> Tensor:
    return deltas.new_empty(deltas.shape, dtype=compute_dtype(deltas, priors))


def _like(*tensors: Tensor) -> tuple[Tensor, ...]:
    return tuple(tensor.new_empty(tensor.shape) for tensor in tensors)


_IOU = _Fake((overlap.checked,), _iou)
_OPTIONS_OF_NMS = (suppression.check_thresholds, suppression.check_candidates)
_FAKES: dict[str, _Fake] = {
    "box_iou": _IOU,
    "box_iou_out": _Fake((_check_iou_out,), lambda: None),
    "generalized_box_iou": _IOU,
    "distance_box_iou": _IOU,
    "complete_box_iou": _IOU,
    "grad_box_iou": _Fake((overlap.checked, _check_iou_grad), lambda boxes1, boxes2: _like(boxes1, boxes2)),
    "encode_boxes": _Fake((_check_coded,), _as_encoded),
    "grad_encode_boxes": _Fake(
        (_check_coded, lambda grad, boxes: checks.gradient(grad, "boxes", boxes, boxes.shape)),
        lambda boxes, priors: _like(boxes, priors),
    ),
    "decode_boxes": _Fake((_check_deltas,), _as_decoded),
    "grad_decode_boxes": _Fake(
        (_check_deltas, lambda grad, deltas: checks.gradient(grad, "deltas", deltas, deltas.shape)),
        lambda deltas, priors: _like(deltas, priors),
    ),
    "match_priors": _Fake((matching.check,), _matches),
    "multibox_loss": _Fake((loss.check,), _losses),
    "grad_multibox_loss": _Fake((_check_loss_grad,), lambda loc, logits: _like(loc, logits)),
    "grad_multibox_loss_levels": _Fake((), _grads_of_levels),
    "nms": _Fake((suppression.check_nms,), _kept_of("nms")),
    "batched_nms": _Fake((suppression.check_nms, suppression.check_idxs), _kept_of("batched_nms")),
    "multiclass_nms": _Fake((suppression.check_scored, *_OPTIONS_OF_NMS), _scored),
    "soft_nms": _Fake((suppression.check_scored, soft_suppression.check_decay), _scored),
    "detect": _Fake((detection.check_raw, *_OPTIONS_OF_NMS), _detected),
    "render_images": _Fake((images.check,), _images),
}
