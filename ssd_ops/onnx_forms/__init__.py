"""Forms of the ops in ONNX's standard operators, for both of torch's exporters.

Sorting is ONNX's TopK, which orders equal values by index; suppression is its NonMaxSuppression.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ssd_ops import checks, reference
from ssd_ops._schemas import SCHEMAS
from ssd_ops.onnx_forms import detection, suppression
from ssd_ops.reference.levels import rows_of_levels


def _detect_levels(loc: Sequence[Tensor], logits: Sequence[Tensor], **others: Any) -> Any:
    return detection.detect(*rows_of_levels(loc, logits), **others)


_FORMS: dict[str, Callable[..., Any]] = {
    "box_iou": reference.box_iou,
    "generalized_box_iou": reference.generalized_box_iou,
    "distance_box_iou": reference.distance_box_iou,
    "complete_box_iou": reference.complete_box_iou,
    "encode_boxes": reference.encode_boxes,
    "decode_boxes": reference.decode_boxes,
    "nms": suppression.nms,
    "batched_nms": suppression.batched_nms,
    "multiclass_nms": detection.multiclass_nms,
    "detect": detection.detect,
    "detect_levels": _detect_levels,
}


def call(name: str, *args: Any) -> Any:
    """Returns the results of an op, computed by functions that ONNX has."""
    if name not in _FORMS:
        checks.fail(f"ssd_ops.{name} has no form in ONNX: export the part before it, or use torch.export.save")
    return _FORMS[name](**SCHEMAS[name].by_name(args))


def decompositions() -> dict[Any, Callable[..., Any]]:
    """Returns the forms for a program of torch.export that already contains the ops.

    `torch.onnx.export(program.run_decompositions(decompositions()))` exports it; for a module torch.onnx.export needs
    nothing of this kind.
    """
    return {getattr(torch.ops.ssd_ops, name).default: partial(call, name) for name in _FORMS}
