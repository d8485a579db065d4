"""Ops that compute more than they return: their gradients need the selection, too."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
All = TypeVar("All")
Public = TypeVar("Public")


def returns(select: Callable[[All], Public]) -> Callable[[Callable[P, All]], Callable[P, Public]]:
    """Makes a function return `select(outputs)`; `all_outputs` returns the undecorated function."""

    def decorate(function: Callable[P, All]) -> Callable[P, Public]:
        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> Public:
            return select(function(*args, **kwargs))

        return call

    return decorate


def all_outputs(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a function decorated by `returns` with all of its outputs; any other function as it is."""
    return getattr(function, "__wrapped__", function)


def first(outputs: tuple[Public, Any]) -> Public:
    """Returns the first of two outputs."""
    return outputs[0]
