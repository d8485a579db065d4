"""Gradients: each differentiable op names the op that computes its gradient and what that one needs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

IOU_METRICS = ("box_iou", "generalized_box_iou", "distance_box_iou", "complete_box_iou")
DIFFERENTIABLE = (*IOU_METRICS, "encode_boxes", "decode_boxes", "multibox_loss", "grad_multibox_loss")


def register(namespace: str, library: torch.library.Library) -> None:
    """Register the gradients of the ops of `namespace`."""
    ops = getattr(torch.ops, namespace)

    def add(name: str, backward: Callable[..., Any], setup_context: Callable[..., None]) -> None:
        torch.library.register_autograd(f"{namespace}::{name}", backward, setup_context=setup_context, lib=library)

    def save_inputs(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.save_for_backward(inputs[0], inputs[1])
        ctx.options = inputs[2:]

    def iou_backward(metric: str) -> Callable[..., Any]:
        def backward(ctx: Any, grad: torch.Tensor) -> Any:
            return ops.grad_box_iou(grad, *ctx.saved_tensors, metric)

        return backward

    def codec_backward(name: str) -> Callable[..., Any]:
        def backward(ctx: Any, grad: torch.Tensor) -> Any:
            return *getattr(ops, f"grad_{name}")(grad, *ctx.saved_tensors, *ctx.options), None, None

        return backward

    def save_loss(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, ...]) -> None:
        ctx.set_materialize_grads(False)  # lse and weight need no zeros of their size
        ctx.save_for_backward(*inputs[:4], output[2], output[3])
        ctx.mark_non_differentiable(output[2], output[3])

    def loss_backward(ctx: Any, *incoming: torch.Tensor | None) -> Any:
        lse = ctx.saved_tensors[-2]
        grads = [lse.new_zeros(()) if grad is None else grad for grad in incoming[:2]]
        return *ops.grad_multibox_loss(*grads, *ctx.saved_tensors), None, None, None, None, None, None

    def refuse_twice(ctx: Any, *_: Any) -> Any:
        raise RuntimeError("multibox_loss cannot be differentiated twice: its gradient has no gradient")

    for metric in IOU_METRICS:
        add(metric, iou_backward(metric), save_inputs)
    for name in ("encode_boxes", "decode_boxes"):
        add(name, codec_backward(name), save_inputs)
    add("multibox_loss", loss_backward, save_loss)
    add("grad_multibox_loss", refuse_twice, lambda ctx, inputs, output: None)
