"""Checks the types of options of models and data sets against the annotations of the functions that take them."""

from __future__ import annotations

import dataclasses
import math
import os
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import Any

_TYPE_NAMES = {
    int: "an integer",
    float: "a finite number",
    bool: "true or false",
    str: "a string",
    type(None): "null (None)",
}
_MAX_INT = 2**31
_MINIMUM = {"trainable_layers": 0, "min_negatives": 0, "seed": 0}  # all other integers must be at least 1


def check_option_types(source: Callable[..., Any], options: Mapping[str, Any]) -> None:
    """Checks the types and minimum values of options before anything is built.

    Args:
        source: Builder of a network, the class `Preset`, or a data set class.
        options: Values by name; names that `source` does not have are skipped.

    Raises:
        ValueError: An option has the wrong type or is too small; the message names it, the expected type and the value.
    """
    source = getattr(source, "func", source)  # unwrap a partial
    if isinstance(source, type) and not dataclasses.is_dataclass(source):
        source = source.__init__  # type: ignore[misc]
    hints = typing.get_type_hints(source)
    for name, value in options.items():
        hint = hints.get(name)
        # Choices and weights have their own checks.
        if hint is None or typing.get_origin(hint) is typing.Literal or name == "weights_backbone":
            continue
        if not _fits(hint, value):
            raise ValueError(f"{name} must be {_describe(hint)}, got {_short(value)}")
        minimum = _MINIMUM.get(name, 1)
        is_integer = isinstance(value, Integral) and not isinstance(value, bool)
        if int in _members(hint) and is_integer and int(value) < minimum:
            raise ValueError(f"{name} must be at least {minimum}, got {value}")


def _members(hint: Any) -> tuple[Any, ...]:
    is_union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    return typing.get_args(hint) if is_union else (hint,)


def _fits(hint: Any, value: Any) -> bool:
    return any(_fits_one(member, value) for member in _members(hint))


def _fits_one(hint: Any, value: Any) -> bool:
    origin = typing.get_origin(hint)
    if origin is typing.Literal:
        return value in typing.get_args(hint) if isinstance(value, str) else False
    if origin in (tuple, Sequence):
        inner = typing.get_args(hint)[0]
        if inner is str and isinstance(value, str):
            return True  # comma-separated names
        return isinstance(value, (list, tuple)) and all(_fits(inner, item) for item in value)
    if hint is bool:
        return isinstance(value, bool)
    if hint is int:
        return isinstance(value, Integral) and not isinstance(value, bool) and abs(int(value)) < _MAX_INT
    if hint is float:
        return _is_number(value) and math.isfinite(value)
    if hint is Path:
        return isinstance(value, os.PathLike)
    return not isinstance(hint, type) or isinstance(value, hint)


def _is_number(value: Any) -> bool:
    if isinstance(value, Integral):
        return not isinstance(value, bool) and abs(int(value)) < _MAX_INT
    return isinstance(value, Real)


def _describe(hint: Any) -> str:
    return " or ".join(dict.fromkeys(map(_describe_one, _members(hint))))


def _describe_one(hint: Any) -> str:
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return "one of " + ", ".join(map(repr, inner))
    if origin in (tuple, Sequence):
        if typing.get_origin(inner[0]) in (tuple, Sequence):
            return "a list of lists of numbers"
        if inner[0] is str:
            return "a list of strings"
        return "a list of integers" if inner[0] is int else "a list of numbers"
    return _TYPE_NAMES.get(hint, str(hint))


def _short(value: Any) -> str:
    if isinstance(value, Integral) and abs(int(value)) >= _MAX_INT:
        return "a number that is too large"
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
