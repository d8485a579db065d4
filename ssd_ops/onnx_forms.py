"""Forms of the ops in ONNX: the steps of the reference, and ONNX's NonMaxSuppression."""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor

from ssd_ops import checks, reference
from ssd_ops._schemas import SCHEMAS

PLAIN = (
    "box_iou",
    "generalized_box_iou",
    "distance_box_iou",
    "complete_box_iou",
    "encode_boxes",
    "decode_boxes",
)


def call(name: str, *args: Any) -> Any:
    """Returns the results of an op, computed by functions that ONNX has."""
    if name in PLAIN:
        return getattr(reference, name)(*args)
    if name in ("nms", "batched_nms"):
        return _nms(**SCHEMAS[name].by_name(args))
    checks.fail(f"ssd_ops.{name} has no form in ONNX: export the part before it, or use torch.export.save")


def _nms(
    boxes: Tensor, scores: Tensor, iou_threshold: float, suppress_equal: bool, idxs: Tensor | None = None
) -> Tensor:
    """Returns the kept indices; both exporters of torch know torchvision's op."""
    if suppress_equal:
        checks.fail("suppress_equal must be False in a program that is exported to ONNX, which has no such NMS")
    if idxs is not None:
        boxes = _apart(boxes, idxs)
    _import_torchvision()
    return torch.ops.torchvision.nms(boxes, scores, iou_threshold)  # type: ignore[no-any-return]


def _import_torchvision() -> None:
    """Imports torchvision outside of the trace, because its import calls an op."""
    tracing: Any = torch._C
    state = tracing._get_tracing_state()
    tracing._set_tracing_state(None)
    try:
        importlib.import_module("torchvision")
    finally:
        tracing._set_tracing_state(state)


def _apart(boxes: Tensor, idxs: Tensor) -> Tensor:
    """Returns boxes shifted by class so that those of different classes never overlap."""
    low, high = boxes.min(), boxes.max()
    return boxes - low + (idxs.to(boxes.dtype) * (high - low + 1))[:, None]
