"""Parses values as exporters write them: ids as strings or floats, flags as words, lists of names as one string."""

import re
from collections.abc import Sequence
from typing import Any

from ssd.data.faults import DataError

MAX_SIDE = 1_000_000  # pixels; a larger height or width is invalid
_MAX_ID = 2**63 - 1
_MAX_EXACT = 2**53  # every integer up to here has a float of its own
_INTEGER = re.compile(r"\s*([+-]?[0-9]{1,39})(?:\.0*)?\s*")
_TRUE = ("1", "1.0", "true", "yes", "t", "y")


def is_true(value: Any) -> bool:
    """Returns whether a flag is set: true, 1, 1.0, or one of these as a string."""
    if isinstance(value, str):
        return value.strip().lower() in _TRUE
    return bool(value) if isinstance(value, (bool, int, float)) else False


def as_int(value: Any) -> int | None:
    """Returns an id or a size as a 64-bit integer, or None if it is not one.

    1, 1.0 and "1.0" are. 1.5, "1_1" and "1e3" are not, nor are floats above 2^53, which stand for several integers.
    """
    if isinstance(value, str):
        digits = _INTEGER.fullmatch(value)
        value = int(digits[1]) if digits else None
    elif isinstance(value, float) and value.is_integer() and abs(value) <= _MAX_EXACT:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) > _MAX_ID:
        return None
    return value


def as_side(value: Any) -> int | None:
    """Returns a height or width in pixels, or None if it is not one."""
    number = as_int(value)
    return number if number is not None and 0 < number <= MAX_SIDE else None


def as_names(classes: Sequence[str] | None) -> tuple[str, ...] | None:
    """Returns the option `classes` as names; a string has them separated by commas.

    Raises:
        DataError: It holds anything else, no name, or one twice.
    """
    if classes is None:
        return None
    names: Sequence[Any] = [name.strip() for name in classes.split(",")] if isinstance(classes, str) else classes
    if not isinstance(names, Sequence) or not all(isinstance(name, str) and name for name in names) or not names:
        raise DataError(
            f'classes must be names, such as classes=cat,dog or classes=["cat", "dog"], got {classes!r:.80}'
        )
    if len(set(names)) < len(names):
        raise DataError(f"classes names a class twice: {', '.join(names)[:200]}")
    return tuple(names)
