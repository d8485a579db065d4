"""torch's SGD and AdamW without the import of torch._dynamo, which takes nearly as long as that of torch itself.

torch wraps methods of its optimizers for torch.compile, and the wrappers import torch._dynamo when they are called. No
optimizer is compiled here, so the functions inside the wrappers are called. A release without wrappers is used as it is.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch


def _plain(method: Any) -> Any:
    """Returns what is inside the wrappers that import torch._dynamo."""
    return inspect.unwrap(method, stop=lambda wrapper: "_dynamo" not in wrapper.__code__.co_names)


class SGD(torch.optim.SGD):
    """torch.optim.SGD."""

    add_param_group = _plain(torch.optim.SGD.add_param_group)
    zero_grad = _plain(torch.optim.SGD.zero_grad)
    state_dict = _plain(torch.optim.SGD.state_dict)
    load_state_dict = _plain(torch.optim.SGD.load_state_dict)
    step = torch.no_grad()(_plain(torch.optim.SGD.step))


class AdamW(torch.optim.AdamW):
    """torch.optim.AdamW."""

    add_param_group = _plain(torch.optim.AdamW.add_param_group)
    zero_grad = _plain(torch.optim.AdamW.zero_grad)
    state_dict = _plain(torch.optim.AdamW.state_dict)
    load_state_dict = _plain(torch.optim.AdamW.load_state_dict)
    step = torch.no_grad()(_plain(torch.optim.AdamW.step))
