"""Derivatives of an op in every mode of torch: backward and forward, of any order, under autograd and `torch.func`.

An op has kernels for its values and at most for its first gradient. Everything else follows from its *formula*: a function
in plain PyTorch that computes the same results from what the op selected (see `reference/formulas.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._functorch.autograd_function import enable_single_level_autograd_function
from torch._functorch.utils import unwrap_dead_wrappers
from torch.autograd import forward_ad
from torch.autograd.function import _SingleLevelFunction

Args = tuple[Any, ...]
Formula = Callable[..., tuple[Tensor, ...]]
vjp: Callable[..., Any] = torch.func.vjp  # torch's annotation knows only the form with has_aux


@dataclass(frozen=True)
class Derivative:
    """Which arguments and results of an op are differentiable, and how."""

    inputs: tuple[int, ...]
    """Indices of the differentiable arguments."""
    outputs: tuple[int, ...]
    """Indices of the differentiable results."""
    formula: Callable[[Args, Args], Formula]
    """Maps all arguments and results of a call to a function from the differentiable arguments to the results."""
    gradient: Callable[[Args, Args, Args], Args] | None = None
    """Maps all arguments, all results (None for the differentiable ones) and the incoming gradients (None without one) to
    the gradients of the inputs. Without it the formula is differentiated."""
    vmap: Callable[[int, Args, Args], Args] | None = None
    """Maps the size of the mapped dimension, its position in each argument and the arguments to the arguments of one call,
    whose results have that dimension first. Without it there is one call per element."""


def tensor_count(op: Any) -> int:
    """Returns how many arguments of an op are tensors; they come first in every schema."""
    return sum("Tensor" in str(argument.type) for argument in op._schema.arguments)


def function_of(name: str, op: Any, derivative: Derivative) -> type[torch.autograd.Function]:  # noqa: C901
    """Returns the autograd function of an op.

    Its `at_one_level` is for autograd alone and skips the `apply` of Python, which takes longer than the op;
    `in_dispatcher` is for calls from the dispatcher, which handles the levels of `torch.func` itself;
    `in_nested_forward_mode` computes the formula in plain PyTorch: the tangents that an autograd function returns have no
    tangents themselves, and torch takes them for 0.
    """
    schema, tensors, direct = op._schema, tensor_count(op), op._op
    inputs_in_all, count = len(schema.arguments), len(schema.returns)
    chosen = tuple(i for i in range(count) if i not in derivative.outputs)
    is_transformed, below_autograd = torch._C._are_functorch_transforms_active, torch._C._AutoDispatchBelowAutograd
    outputs, gradient = derivative.outputs, derivative.gradient
    no_gradients = (None,) * inputs_in_all
    is_prefix = derivative.inputs == tuple(range(len(derivative.inputs)))
    without_gradient = no_gradients[len(derivative.inputs) :]  # of a call, where those with one come first

    def forward(*args: Any) -> Any:
        with below_autograd():
            return direct(*args)

    def forward_at_one_level(ctx: Any, *args: Any) -> Any:
        with below_autograd():
            output = direct(*args)
        setup_context(ctx, args, output)
        return output

    def setup_context(ctx: Any, inputs: Args, output: Any) -> None:
        choices: list[Tensor] = []
        ctx.set_materialize_grads(False)  # the gradients of selections need no zeros of their size
        if chosen:
            choices = [output[i] for i in chosen]
            ctx.mark_non_differentiable(*choices)
        ctx.save_for_backward(*inputs[:tensors], *choices)
        if forward_ad._current_level >= 0:
            ctx.save_for_forward(*inputs[:tensors], *choices)
        ctx.options = inputs[tensors:]

    def saved(ctx: Any) -> tuple[Args, Args]:
        found = ctx.saved_tensors  # read once: checkpointing unpacks them on every access
        if not is_transformed():
            found = unwrap_dead_wrappers(found)
        if not chosen:
            return (*found, *ctx.options), (None,) * count
        others: list[Tensor | None] = [None] * count
        for i, choice in zip(chosen, found[tensors:], strict=True):
            others[i] = choice
        return (*found[:tensors], *ctx.options), tuple(others)

    def backward(ctx: Any, *incoming: Tensor | None) -> Any:
        grads = tuple([incoming[i] for i in outputs])
        if not [grad for grad in grads if grad is not None]:
            return no_gradients
        args, others = saved(ctx)
        if gradient is not None:
            found = gradient(args, others, grads)
        else:
            found = formula_vjp(derivative.formula(args, others), [args[i] for i in derivative.inputs], grads)
        if is_prefix:
            return (*found, *without_gradient)
        result: list[Tensor | None] = [*no_gradients]
        for i, grad in zip(derivative.inputs, found, strict=True):
            result[i] = grad
        return tuple(result)

    def jvp(ctx: Any, *incoming: Tensor | None) -> Any:
        args, others = saved(ctx)
        inputs = [args[i] for i in derivative.inputs]
        tangents = [
            torch.zeros_like(x) if t is None else t
            for x, t in zip(inputs, (incoming[i] for i in derivative.inputs), strict=True)
        ]
        found = formula_jvp(derivative.formula(args, others), inputs, tangents)
        result: list[Tensor | None] = [None] * count
        for i, tangent in zip(derivative.outputs, found, strict=True):
            result[i] = tangent
        return tuple(result) if len(result) > 1 else result[0]

    def vmap(info: Any, in_dims: Args, *args: Any) -> Any:
        if derivative.vmap is not None:
            result = function.apply(*derivative.vmap(info.batch_size, in_dims, args))
        else:
            result = _one_by_one(function.apply, info.batch_size, in_dims, args)
        return result, (0,) * len(result) if isinstance(result, tuple) else 0

    def apply_in_nested_forward_mode(*args: Any) -> Any:
        results = function.apply(*args)
        others = results if count > 1 else (results,)
        others = tuple(None if i in outputs else result for i, result in enumerate(others))
        found = iter(derivative.formula(args, others)(*[args[i] for i in derivative.inputs]))
        merged = tuple(next(found) if i in outputs else other for i, other in enumerate(others))
        return merged if count > 1 else merged[0]

    def apply_in_dispatcher(*args: Any) -> Any:
        if forward_ad._current_level >= 0:
            raise RuntimeError(f"torch.ops.ssd_ops.{name} has no forward mode: call ssd_ops.{name}, which has")
        with enable_single_level_autograd_function():
            return at_one_level.apply(*args)

    methods = {"backward": staticmethod(backward), "jvp": staticmethod(jvp)}
    inner = {**methods, "forward": staticmethod(forward_at_one_level)}
    at_one_level: Any = type(f"{name}_at_one_level", (_SingleLevelFunction,), inner)
    outer = {
        "forward": staticmethod(forward),
        "setup_context": staticmethod(setup_context),
        "vmap": staticmethod(vmap),
        "at_one_level": at_one_level,
        "in_dispatcher": staticmethod(apply_in_dispatcher),
        "in_nested_forward_mode": staticmethod(apply_in_nested_forward_mode),
    }
    function: Any = type(name, (torch.autograd.Function,), {**methods, **outer})
    return function  # type: ignore[no-any-return]


def formula_vjp(formula: Formula, inputs: list[Tensor], grads: Args) -> tuple[Tensor, ...]:
    """Returns the vector-Jacobian product: gradients of `inputs` for gradients of the results (None without one)."""
    results, pull = vjp(formula, *inputs)
    found: tuple[Tensor, ...] = pull(
        tuple(torch.zeros_like(r) if g is None else g.to(r.dtype) for r, g in zip(results, grads, strict=True))
    )
    return found


def formula_jvp(formula: Formula, inputs: list[Tensor], tangents: list[Tensor]) -> tuple[Tensor, ...]:
    """Returns the Jacobian-vector product: tangents of the formula's results.

    A vjp is linear in its incoming gradients, and its own vjp is the jvp. `torch.func.jvp` would be a second level of
    forward mode, which torch does not have.
    """
    results, pull = vjp(formula, *inputs)
    _, push = vjp(lambda *grads: pull(grads), *(torch.zeros_like(result) for result in results))
    found: tuple[Tensor, ...] = push(tuple(tangents))
    return found


def _one_by_one(call: Callable[..., Any], size: int, in_dims: Args, args: Args) -> Any:
    if not size:
        raise RuntimeError("torch.vmap over a dimension of size 0 is not supported by this op")
    dims = [dim if isinstance(arg, Tensor) else None for dim, arg in zip(in_dims, args, strict=True)]
    results = [
        call(*(arg if dim is None else arg.select(dim, i) for dim, arg in zip(dims, args, strict=True)))
        for i in range(size)
    ]
    if isinstance(results[0], tuple):
        return tuple(torch.stack(parts) for parts in zip(*results, strict=True))
    return torch.stack(results)
