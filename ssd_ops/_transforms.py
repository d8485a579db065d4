"""Batching rules of `torch.vmap`, and errors for transforms that an op does not support."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ssd_ops import checks
from ssd_ops.reference.images import check_derivative

Args = tuple[Any, ...]


def vmap_pairs(size: int, dims: Args, args: Args) -> Args:
    """Returns the arguments of one call of a pairwise op: the mapped dimension becomes a leading dimension."""
    return tuple(
        _with_leading_dim(arg, dim, size) if isinstance(arg, Tensor) else arg
        for arg, dim in zip(args, dims, strict=True)
    )


def vmap_coded(size: int, dims: Args, args: Args) -> Args:
    """Returns the arguments of one call of `encode_boxes` or `decode_boxes`; priors that are not mapped stay shared."""
    boxes, priors = _with_leading_dim(args[0], dims[0], size), args[1]
    if dims[1] is not None:
        priors = priors.movedim(dims[1], 0)
        between = boxes.dim() - priors.dim()
        priors = priors.reshape(size, *(1,) * max(between, 0), *priors.shape[1:]).expand(boxes.shape)
    return boxes, priors, *args[2:]


def _with_leading_dim(tensor: Tensor, dim: int | None, size: int) -> Tensor:
    return tensor.expand(size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)


def _reject_vmap(name: str) -> Callable[..., None]:
    def guard(boxes: Tensor, scores: Tensor, idxs: Tensor | None = None) -> None:
        if not torch._C._are_functorch_transforms_active():
            return
        if any(tensor is not None and _is_mapped(tensor) for tensor in (boxes, scores, idxs)):
            checks.fail(
                f"{name} keeps a number of boxes that depends on the data, so torch.vmap cannot stack its results: "
                "call multiclass_nms, whose results are padded, or loop"
            )

    return guard


def _is_mapped(tensor: Tensor) -> bool:
    functorch = torch._C._functorch
    while functorch.is_functorch_wrapped_tensor(tensor):
        if functorch.is_batchedtensor(tensor):
            return True
        tensor = functorch.get_unwrapped(tensor)
    return False


def _record_write(boxes1: Tensor, boxes2: Tensor, out: Tensor) -> None:
    """Records the write to `out`, so that autograd detects stale saved tensors."""
    checks.writable("out", out, boxes1=boxes1, boxes2=boxes2)
    if not out.is_inference():
        torch.autograd.graph.increment_version(out)


# Checked before an op without a derivative runs; each takes those arguments of the op that it names.
GUARDS: dict[str, Callable[..., None]] = {
    "nms": _reject_vmap("nms"),
    "batched_nms": _reject_vmap("batched_nms"),
    "render_images": check_derivative,
    "box_iou_out": _record_write,
}
