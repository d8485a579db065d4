"""`detect` and `multibox_loss` on one tensor for each feature level, without concatenating them.

These ops have kernels for values and first gradients. Everything else (`torch.func`, forward mode, higher derivatives,
programs that are traced with gradients, more levels than the kernels support) is computed from the concatenated rows,
with equal results.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.autograd.function import _SingleLevelFunction

from ssd_ops._schemas import Schema
from ssd_ops.dtypes import floating
from ssd_ops.reference.levels import Outputs, floating_levels, levels_of_rows, rows_of_levels

Calls = dict[str, Callable[..., Any]]
_is_transformed, _any_requires_grad = torch._C._are_functorch_transforms_active, torch._C._any_requires_grad
MAX_LEVELS = 16  # kMaxLevels of csrc/core/levels.h


def op_and_outputs(name: str, loc: Outputs, logits: Outputs) -> tuple[str, Any, Any]:
    """Returns the op for outputs in either form, and the outputs as its arguments; the op validates them."""
    if isinstance(loc, (list, tuple)) or isinstance(logits, (list, tuple)):
        levels = floating_levels(loc, logits)
        if len(levels[0]) <= MAX_LEVELS:
            return f"{name}_levels", *levels
        return name, *rows_of_levels(*levels)
    return name, floating("loc", loc), floating("logits", logits)


def register(ops: Any, library: torch.library.Library, calls: Calls, schemas: dict[str, Schema]) -> None:
    """Registers the ops on levels; `calls` has those on rows."""
    makers = {
        "detect_levels": _direct,
        "multibox_loss_levels": _multibox_loss,
        "grad_multibox_loss_levels": _direct,
    }
    for name, make in makers.items():
        calls[name] = make(name, ops, calls)

        def batched(*args: Any, name: str = name) -> Any:
            args = schemas[name].complete(args)
            return _by_rows(name, args, lambda row_op, *row_args: getattr(ops, row_op)(*row_args))

        def in_dispatcher(*args: Any, name: str = name, by_rows: Callable[..., Any] = batched) -> Any:
            op = getattr(ops, name).default
            args = schemas[name].complete(args)
            if _needs_rows(args):
                return by_rows(*args)
            with torch._C._AutoDispatchBelowAutograd():
                return op(*args)

        library.impl(name, in_dispatcher, "Autograd")
        for key in ("FuncTorchBatched", "Batched"):  # the latter: torch.autograd.grad(..., is_grads_batched=True)
            library.impl(name, batched, key)  # torch has no batching rule for lists of tensors


def _needs_rows(args: Sequence[Any]) -> bool:
    if _is_transformed() or forward_ad._current_level >= 0:
        return True
    return torch.is_grad_enabled() and _any_requires_grad(*(a for a in args if isinstance(a, (Tensor, list))))


def _by_rows(name: str, args: Sequence[Any], call: Callable[..., Any]) -> Any:
    """Returns the results of an op on levels by `call(op, *arguments)` of that on rows."""
    index_of_loc = 2 if name.startswith("grad_") else 0
    loc, logits = args[index_of_loc : index_of_loc + 2]
    rows = rows_of_levels(loc, logits)
    results = call(name.removesuffix("_levels"), *args[:index_of_loc], *rows, *args[index_of_loc + 2 :])
    if index_of_loc == 0:
        return results
    return levels_of_rows(results[0], loc), levels_of_rows(results[1], logits)


def _direct(name: str, ops: Any, calls: Calls) -> Callable[..., Any]:
    direct, below_autograd = getattr(ops, name).default._op, torch._C._AutoDispatchBelowAutograd

    def call(*args: Any) -> Any:
        if _needs_rows(args):
            return _by_rows(name, args, lambda row_op, *row_args: calls[row_op](*row_args))
        with below_autograd():
            return direct(*args)

    return call


def _multibox_loss(name: str, ops: Any, calls: Calls) -> Callable[..., Any]:
    direct, below_autograd = getattr(ops, name).default._op, torch._C._AutoDispatchBelowAutograd
    apply = _loss_function(direct, calls).apply

    def call(*args: Any) -> Any:
        loc, logits, loc_targets, labels, *options = args
        if not _needs_rows(args):
            with below_autograd():
                return direct(*args)
        transformed = _is_transformed() or forward_ad._current_level >= 0
        if transformed or loc_targets.requires_grad:
            return _by_rows(name, args, lambda row_op, *row_args: calls[row_op](*row_args))
        return apply(options, loc_targets, labels, *loc, *logits)

    return call


def _loss_function(direct: Callable[..., Any], calls: Calls) -> Any:
    """Returns the autograd function of the loss, whose levels are its last arguments."""

    def forward(ctx: Any, options: list[Any], loc_targets: Tensor, labels: Tensor, *levels: Tensor) -> Any:
        count = len(levels) // 2
        with torch._C._AutoDispatchBelowAutograd():
            loc_loss, cls_loss, weight = direct(
                list(levels[:count]), list(levels[count:]), loc_targets, labels, *options
            )
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(weight)
        ctx.save_for_backward(loc_targets, labels, weight, *levels)
        return loc_loss, cls_loss, weight

    def backward(ctx: Any, of_loc: Tensor | None, of_cls: Tensor | None, *_: None) -> Any:
        loc_targets, labels, weight, *levels = ctx.saved_tensors
        count = len(levels) // 2
        incoming = (weight.new_zeros(()) if grad is None else grad for grad in (of_loc, of_cls))
        loc, logits = calls["grad_multibox_loss_levels"](
            *incoming, levels[:count], levels[count:], loc_targets, labels, weight
        )
        return None, None, None, *loc, *logits

    methods = {"forward": staticmethod(forward), "backward": staticmethod(backward)}
    return type("multibox_loss_levels", (_SingleLevelFunction,), methods)
