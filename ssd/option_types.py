"""Types of options of models and data sets, checked against the annotations of what takes them."""

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

_WORDS = {
    int: "a whole number",
    float: "a finite number",
    bool: "true or false",
    str: "a text",
    type(None): "null (None)",
}
_LARGEST = 2**31  # of whole numbers
_LEAST = {"trainable_layers": 0, "min_negatives": 0, "seed": 0}  # other whole numbers count something that is there


def check_option_types(source: Callable[..., Any], options: Mapping[str, Any]) -> None:
    """Checks options before anything is built of them.

    Args:
        source: builder of a network, the class Preset, or a class of data sets.
        options: by name; names that `source` does not have are left alone.

    Raises:
        ValueError: naming the option, what it must be and what came.
    """
    source = getattr(source, "func", source)  # of a partial
    if isinstance(source, type) and not dataclasses.is_dataclass(source):
        source = source.__init__  # type: ignore[misc]
    hints = typing.get_type_hints(source)
    for name, value in options.items():
        hint = hints.get(name)
        # choices are checked where they are listed, weights where they are read
        if hint is None or typing.get_origin(hint) is typing.Literal or name == "weights_backbone":
            continue
        if not _fits(hint, value):
            raise ValueError(f"{name} must be {_words(hint)}, got {_short(value)}")
        least = _LEAST.get(name, 1)
        if int in _members(hint) and isinstance(value, Integral) and not isinstance(value, bool) and int(value) < least:
            raise ValueError(f"{name} must be at least {least}, got {value}")


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
            return True  # names with commas between them
        return isinstance(value, (list, tuple)) and all(_fits(inner, item) for item in value)
    if hint is bool:
        return isinstance(value, bool)
    if hint is int:
        return isinstance(value, Integral) and not isinstance(value, bool) and abs(int(value)) < _LARGEST
    if hint is float:
        return _is_number(value) and math.isfinite(value)
    if hint is Path:
        return isinstance(value, os.PathLike)
    return not isinstance(hint, type) or isinstance(value, hint)


def _is_number(value: Any) -> bool:
    if isinstance(value, Integral):
        return not isinstance(value, bool) and abs(int(value)) < _LARGEST
    return isinstance(value, Real)


def _words(hint: Any) -> str:
    return " or ".join(dict.fromkeys(map(_words_of_one, _members(hint))))


def _words_of_one(hint: Any) -> str:
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return "one of " + ", ".join(map(repr, inner))
    if origin in (tuple, Sequence):
        if typing.get_origin(inner[0]) in (tuple, Sequence):
            return "a list of lists of numbers"
        if inner[0] is str:
            return "a list of texts"
        return "a list of whole numbers" if inner[0] is int else "a list of numbers"
    return _WORDS.get(hint, str(hint))


def _short(value: Any) -> str:
    if isinstance(value, Integral) and abs(int(value)) >= _LARGEST:
        return "a larger number"
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
