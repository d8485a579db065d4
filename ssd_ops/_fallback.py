"""The reference under the schemas of the ops: positional arguments in, plain tensors out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ssd_ops import _library, reference
from ssd_ops._schemas import Schema
from ssd_ops.reference.loss import grad_multibox_loss_levels
from ssd_ops.reference.outputs import all_outputs


def _box_iou_out(boxes1: Tensor, boxes2: Tensor, out: Tensor) -> None:
    reference.box_iou(boxes1, boxes2, out=out)


def _render_images(*, dtype: str, **others: Any) -> Tensor:
    return reference.render_images(**others, dtype=getattr(torch, dtype))


_OTHERS: dict[str, Callable[..., Any]] = {
    "box_iou_out": _box_iou_out,
    "detect_levels": reference.detect,
    "grad_multibox_loss_levels": grad_multibox_loss_levels,
    "multibox_loss_levels": reference.multibox_loss,
    "render_images": _render_images,
}
"""By name of an op, what its reference is called by where the arguments differ from those of the schema."""


def implementation(schema: Schema) -> Callable[..., Any]:
    """Returns the reference of an op as a kernel, which warns once for each kind of device that it serves.

    Reference gradients are computed by autograd, which kernels run below of: it is switched on again.
    """
    function = all_outputs(_OTHERS.get(schema.name) or getattr(reference, schema.name))
    needs_autograd = schema.name in ("grad_box_iou", "grad_encode_boxes", "grad_decode_boxes")

    def kernel(*args: Any) -> Any:
        parts = (part for arg in args for part in (arg if isinstance(arg, list) else [arg]))
        device = next(part.device.type for part in parts if hasattr(part, "device"))
        if device not in ("cpu", "meta"):
            _library.warn_of_reference(device)
        arguments = schema.by_name(args)
        if not needs_autograd:
            return _flat(function(**arguments))
        with torch._C._SetExcludeDispatchKeyGuard(torch._C.DispatchKey.AutogradFunctionality, False):
            return function(**arguments)

    return kernel


def _flat(result: Any) -> Any:
    """Returns the tensors and lists of a result, in one plain tuple where there are several."""
    if not isinstance(result, tuple):
        return result
    parts = (part if isinstance(part, tuple) else (part,) for part in result)
    return tuple(tensor for part in parts for tensor in part if isinstance(tensor, (Tensor, list)))
