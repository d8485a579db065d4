"""Which ops are differentiable, and how autograd, `torch.func` and tracing reach an op."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from ssd_ops import _levels, _transforms, checks, onnx_forms, reference
from ssd_ops._derivatives import Args, Derivative, Formula, function_of, tensor_count, vjp
from ssd_ops._schemas import SCHEMAS, Schema, parameters
from ssd_ops.reference import formulas, overlap

_calls: dict[str, dict[str, Callable[..., Any]]] = {}  # by namespace and name
_is_compiling, _is_tracing = torch.compiler.is_compiling, torch._C._is_tracing


def call(name: str, *args: Any) -> Any:
    """Calls an op: through the dispatcher while a program is traced, else directly, which is faster."""
    ops = torch.ops.ssd_ops
    if _is_compiling() or _is_tracing():
        if torch.onnx.is_in_onnx_export():
            return onnx_forms.call(name, *args)
        return getattr(ops, name)(*args)
    try:
        return _calls[ops.name][name](*args)
    except (NotImplementedError, RuntimeError) as error:
        parts = (part for arg in args for part in (arg if isinstance(arg, (list, tuple)) else [arg]))
        if any(type(part).__name__ == "DTensor" for part in parts):
            raise RuntimeError(
                f"{name.removesuffix('_levels')} takes no DTensor: give full_tensor(), or to_local() where each process "
                "has boxes of its own"
            ) from error
        if "Expected a value of type" in str(error):
            _check_size_of_numbers(name, args)
        raise


def _check_size_of_numbers(name: str, args: Args) -> None:
    # torch says that it expected an int and found an int, with all digits.
    for argument, value in zip(SCHEMAS[name].arguments, args, strict=False):
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            checks.fail(f"{argument} must be a number of 64 bits, got an integer of {value.bit_length()} bits")


def register(namespace: str, library: torch.library.Library) -> None:
    """Registers the autograd kernel of each op of `namespace`."""
    calls = _calls[namespace] = {}
    derivatives = _derivatives(calls)
    _levels.register(getattr(torch.ops, namespace), library, calls, SCHEMAS)
    for name, schema in SCHEMAS.items():
        if name in calls:
            continue
        op = getattr(getattr(torch.ops, namespace), name).default
        if name in derivatives:
            function: Any = function_of(name, op, derivatives[name])
            apply = function.at_one_level.apply
            calls[name] = _differentiable(op, apply, function.apply, function.in_nested_forward_mode)
            in_dispatcher = _differentiable(op, apply, function.in_dispatcher, function.in_dispatcher)
            library.impl(name, _completed(schema, in_dispatcher), "Autograd")
        elif name in _transforms.GUARDS:
            calls[name] = _guarded(op, schema, _transforms.GUARDS[name])
            library.impl(name, calls[name], "Autograd")
        else:
            calls[name] = op
            library.impl(name, torch.library.fallthrough_kernel, "Autograd")


def _forward_levels() -> int:
    """Returns how many calls of `torch.func.jvp` are around this one."""
    levels = torch._C._functorch.get_interpreter_stack() or ()
    return sum(level.key() == torch._C._functorch.TransformType.Jvp for level in levels)


def _differentiable(
    op: Any, apply: Callable[..., Any], apply_transformed: Callable[..., Any], apply_nested: Callable[..., Any]
) -> Callable[..., Any]:
    any_requires_grad, is_grad_enabled = torch._C._any_requires_grad, torch.is_grad_enabled
    direct, tensors = op._op, tensor_count(op)  # as op(*args), without a Python frame in between
    is_transformed, below_autograd = torch._C._are_functorch_transforms_active, torch._C._AutoDispatchBelowAutograd

    def call(*args: Any) -> Any:
        if is_transformed():
            return (apply_nested if _forward_levels() > 1 else apply_transformed)(*args)
        if (is_grad_enabled() and any_requires_grad(*args[:tensors])) or forward_ad._current_level >= 0:
            return apply(*args)
        with below_autograd():
            return direct(*args)

    return call


def _completed(schema: Schema, function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any) -> Any:
        return function(*schema.complete(args))

    return call


def _guarded(op: Callable[..., Any], schema: Schema, guard: Callable[..., None]) -> Callable[..., Any]:
    names = parameters(guard)  # of at least two tensors, without defaults
    guarded = operator.itemgetter(*(schema.arguments.index(name) for name in names if name in schema.arguments))

    def call(*args: Any) -> Any:
        guard(*guarded(args))
        with torch._C._AutoDispatchBelowAutograd():
            return op(*args)

    return call


def _derivatives(calls: dict[str, Callable[..., Any]]) -> dict[str, Derivative]:
    """Returns the derivatives of all differentiable ops; `calls` are those of their namespace."""
    result = {}
    for metric in overlap.METRICS:
        result[metric] = _iou(metric, calls)
    for name in ("encode_boxes", "decode_boxes"):
        result[name], result[f"grad_{name}"] = _codec(name, calls), _grad_codec(name)
    result["grad_box_iou"] = Derivative((0, 1, 2), (0, 1), _grad_iou_formula, vmap=_transforms.vmap_pairs)
    result["multibox_loss"] = _loss(calls)
    result["grad_multibox_loss"] = Derivative((0, 1, 2, 3, 4), (0, 1), _grad_loss_formula)
    result["match_priors"] = Derivative((0, 4), (2,), _targets_formula)
    result["multiclass_nms"] = Derivative((0, 1), (0, 1), _multiclass_formula)
    result["soft_nms"] = Derivative((0, 1), (0, 1), _soft_formula)
    result["detect"] = Derivative((0, 1, 2), (0, 1), _detect_formula)
    return result


def _iou(metric: str, calls: dict[str, Callable[..., Any]]) -> Derivative:
    measure = getattr(reference, metric)

    def gradient(args: Args, results: Args, grads: Args) -> Args:
        return calls["grad_box_iou"](*grads, *args, metric)  # type: ignore[no-any-return]

    def formula(args: Args, results: Args) -> Formula:
        return lambda boxes1, boxes2: (measure(boxes1, boxes2),)

    return Derivative((0, 1), (0,), formula, gradient, _transforms.vmap_pairs)


def _grad_iou_formula(args: Args, results: Args) -> Formula:
    measure = getattr(reference, args[3])

    def formula(grad: Tensor, boxes1: Tensor, boxes2: Tensor) -> tuple[Tensor, ...]:
        result, pull = vjp(measure, boxes1, boxes2)
        return pull(grad.to(result.dtype))  # type: ignore[no-any-return]

    return formula


def _codec(name: str, calls: dict[str, Callable[..., Any]]) -> Derivative:
    op = getattr(reference, name)

    def gradient(args: Args, results: Args, grads: Args) -> Args:
        return calls[f"grad_{name}"](*grads, *args)  # type: ignore[no-any-return]

    def formula(args: Args, results: Args) -> Formula:
        return lambda boxes, priors: (op(boxes, priors, *args[2:]),)

    return Derivative((0, 1), (0,), formula, gradient, _transforms.vmap_coded)


def _grad_codec(name: str) -> Derivative:
    op = getattr(reference, name)

    def formula(args: Args, results: Args) -> Formula:
        def gradients(grad: Tensor, boxes: Tensor, priors: Tensor) -> tuple[Tensor, ...]:
            result, pull = vjp(lambda *inputs: op(*inputs, *args[3:]), boxes, priors)
            return pull(grad.to(result.dtype))  # type: ignore[no-any-return]

        return gradients

    return Derivative((0, 1, 2), (0, 1), formula)


def _loss(calls: dict[str, Callable[..., Any]]) -> Derivative:
    def gradient(args: Args, results: Args, grads: Args) -> Args:
        loc, logits, loc_targets, labels = args[:4]
        weight = results[2]
        of_loc_loss, of_cls_loss = (weight.new_zeros(()) if grad is None else grad for grad in grads)
        if not loc_targets.requires_grad:
            result = calls["grad_multibox_loss"](of_loc_loss, of_cls_loss, *args[:4], weight)
            return (*result, None)
        # smooth L1 is a function of loc - loc_targets, so the gradients differ in sign only; loc is converted first, so
        # that its gradient is not rounded to half precision
        loc = loc.to(weight.dtype)
        result = calls["grad_multibox_loss"](of_loc_loss, of_cls_loss, loc, logits, loc_targets, labels, weight)
        return (*result, -result[0])

    def formula(args: Args, results: Args) -> Formula:
        return lambda loc, logits, targets: formulas.multibox_loss(loc, logits, targets, args[3], results[2])

    return Derivative((0, 1, 2), (0, 1), formula, gradient)


def _grad_loss_formula(args: Args, results: Args) -> Formula:
    labels, weight = args[5:7]

    def formula(of_loc: Tensor, of_cls: Tensor, loc: Tensor, logits: Tensor, targets: Tensor) -> tuple[Tensor, ...]:
        _, pull = vjp(lambda a, b: formulas.multibox_loss(a, b, targets, labels, weight), loc, logits)
        return pull((of_loc.to(weight.dtype), of_cls.to(weight.dtype)))  # type: ignore[no-any-return]

    return formula


def _targets_formula(args: Args, results: Args) -> Formula:
    arguments = SCHEMAS["match_priors"].by_name(args)
    offsets, variances = arguments["offsets"], arguments["variances"]
    return lambda boxes, priors: (formulas.match_priors(boxes, priors, offsets, results[1], variances),)


def _multiclass_formula(args: Args, results: Args) -> Formula:
    return lambda boxes, scores: formulas.multiclass_nms(boxes, scores, *results[2:])


def _soft_formula(args: Args, results: Args) -> Formula:
    options = SCHEMAS["soft_nms"].by_name(args)
    labels, counts, box_indices = results[2:]
    return lambda boxes, scores: formulas.soft_nms(boxes, scores, labels, counts, box_indices, options)


def _detect_formula(args: Args, results: Args) -> Formula:
    arguments = SCHEMAS["detect"].by_name(args)
    options = {"variances": arguments["variances"], "clip": arguments["clip"]}
    return lambda loc, logits, priors: formulas.detect(loc, logits, priors, *results[2:], **options)


DIFFERENTIABLE = {name: derivative.inputs for name, derivative in _derivatives({}).items()}
"""By name of an op, the indices of its differentiable arguments."""
