"""The reference with its latest results kept: an op test runs once for each implementation, always with the same inputs."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from functools import wraps
from typing import Any

import torch
from torch import Tensor

import ssd_ops

CAPACITY = 256  # calls; a parametrized test runs with all implementations before the next one begins
_results: OrderedDict[Hashable, Any] = OrderedDict()


class _Reference:
    """Has the functions of `ssd_ops.reference`."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        function = getattr(ssd_ops.reference, name)

        @wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            key = _key((name, args, sorted(kwargs.items())))
            if key is None or kwargs.get("out") is not None:  # out= is written to
                return function(*args, **kwargs)
            if key not in _results:
                _results[key] = function(*args, **kwargs)
                if len(_results) > CAPACITY:
                    _results.popitem(last=False)
            return _copy(_results[key])

        return call


reference = _Reference()


def _key(value: Any) -> Hashable:
    """Returns a key of the value with the bits of its tensors; None if its results cannot be kept."""
    if isinstance(value, Tensor):
        if value.requires_grad or value.layout is not torch.strided or value.device.type != "cpu" or value.is_nested:
            return None
        bits = value.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes()
        return bits, value.shape, value.stride(), value.dtype
    if isinstance(value, (list, tuple)):
        parts = [_key(part) for part in value]
        return None if any(part is None for part in parts) else (type(value), *parts)
    return (type(value), repr(value))  # so that 1 is not True, and NaN equals NaN


def _copy(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.clone()
    parts = [_copy(part) for part in value]
    return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
