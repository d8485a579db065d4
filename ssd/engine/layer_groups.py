"""Does for all layers of a network together what torch does for each of them, with equal bits and fewer kernels.

A training step of SSDlite launches some 300 kernels that cast one weight or its gradient, or count a batch.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from ssd.models.same_padding import SameConv2d
from ssd.models.tensor_slots import Slot

_CAST_BY_AUTOCAST = (nn.Conv2d, nn.Linear, SameConv2d)  # exact types: a subclass may use its weights otherwise


class LayerGroups:
    """What a forward pass in training does for all layers together; nothing without a model.

    Args:
        model: Model to train, on its device; not one that DDP wraps or that is compiled, which hold the layers' own
            tensors.
        dtype: The dtype of autocast, or None without autocast.
    """

    def __init__(self, model: nn.Module | None = None, dtype: torch.dtype | None = None) -> None:
        self._cast = None if model is None or dtype is None else CastWeights(model, dtype)
        self._counters = None if model is None else BatchCounters(model)

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Runs a forward pass."""
        with contextlib.ExitStack() as stack:
            for group in (self._cast, self._counters):
                if group is not None:
                    stack.enter_context(group.applied())
            yield

    def collect(self) -> None:
        """Completes the gradients of the model's weights, after each backward pass."""
        if self._cast is not None:
            self._cast.collect()


class CastWeights:
    """Half-precision copies of the weights of convolutions and linear layers, for training under autocast.

    Results and gradients are those of autocast, bit for bit.

    Args:
        model: Model to train, on its device.
        dtype: The dtype of autocast.
    """

    def __init__(self, model: nn.Module, dtype: torch.dtype) -> None:
        self._slots: list[tuple[Slot, int]] = []  # and the index of the weight
        self._weights: list[nn.Parameter] = []
        index_of: dict[nn.Parameter, int] = {}  # layers may share a weight
        for module in model.modules():
            if type(module) not in _CAST_BY_AUTOCAST:
                continue
            for name, weight in module._parameters.items():
                if weight is None or weight.dtype != torch.float32:
                    continue
                if weight not in index_of:
                    index_of[weight] = len(self._weights)
                    self._weights.append(weight)
                self._slots.append(((module._parameters, name), index_of[weight]))
        self._copies = [torch.empty_like(weight, dtype=dtype) for weight in self._weights]

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Lets the layers use the copies, with the current values of the weights."""
        with torch.no_grad():
            torch._foreach_copy_(self._copies, [weight.detach() for weight in self._weights])
        for weight, copy in zip(self._weights, self._copies, strict=True):
            copy.requires_grad_(weight.requires_grad)
        for (tensors, name), index in self._slots:
            tensors[name] = self._copies[index]
        try:
            yield
        finally:
            for (tensors, name), index in self._slots:
                tensors[name] = self._weights[index]

    def collect(self) -> None:
        """Moves the gradients of the copies to the weights, after a backward pass."""
        found = [(w, c, c.grad) for w, c in zip(self._weights, self._copies, strict=True) if c.grad is not None]
        if not found:
            return
        grads: list[Tensor] = [torch.empty_like(weight) for weight, _, _ in found]
        torch._foreach_copy_(grads, [grad for _, _, grad in found])
        for (weight, copy, _), grad in zip(found, grads, strict=True):
            copy.grad = None
            if weight.grad is None:
                weight.grad = grad
            else:
                weight.grad += grad


class BatchCounters:
    """The counters `num_batches_tracked` of the BatchNorms of a model.

    Args:
        model: Model to train.
    """

    def __init__(self, model: nn.Module) -> None:
        # Without a momentum, a BatchNorm reads its counter. Other types are left alone: they may read it, too.
        self._norms = [m for m in model.modules() if type(m) is nn.BatchNorm2d and m.momentum is not None]

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Counts one batch for all BatchNorms in training mode, in place of their own counting."""
        counted = [(n, n.num_batches_tracked) for n in self._norms if n.training and n.num_batches_tracked is not None]
        for norm, _ in counted:
            norm.num_batches_tracked = None
        try:
            yield
        finally:
            for norm, counter in counted:
                norm.num_batches_tracked = counter
        if counted:
            torch._foreach_add_([counter for _, counter in counted], 1)
