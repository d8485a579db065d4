"""torch's SGD and AdamW without the import of torch._dynamo, which takes nearly as long as that of torch itself.

torch wraps methods of its optimizers for torch.compile, and the wrappers import torch._dynamo when they are called. No
optimizer is compiled here, so the functions inside the wrappers are called. A release without wrappers is used as it is.
"""

from __future__ import annotations

import inspect
from typing import Any, TypeVar

import torch

_Optimizer = TypeVar("_Optimizer", bound=torch.optim.Optimizer)


def _plain(method: Any) -> Any:
    """Returns what is inside the wrappers that import torch._dynamo."""
    return inspect.unwrap(method, stop=lambda wrapper: "_dynamo" not in wrapper.__code__.co_names)


def _with_plain_methods(optimizer: type[_Optimizer]) -> type[_Optimizer]:
    """Replaces the wrapped methods of a class of optimizers; a step computes no gradients."""
    for name in ("add_param_group", "zero_grad", "state_dict", "load_state_dict", "step"):
        setattr(optimizer, name, _plain(getattr(optimizer, name)))
    setattr(optimizer, "step", torch.no_grad()(optimizer.step))  # noqa: B010  mypy: methods are not assigned
    return optimizer


@_with_plain_methods
class SGD(torch.optim.SGD):
    """torch.optim.SGD."""


@_with_plain_methods
class AdamW(torch.optim.AdamW):
    """torch.optim.AdamW."""
