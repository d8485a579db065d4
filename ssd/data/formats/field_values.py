"""Parses values as exporters write them: ids as strings or floats, flags as words, lists of names as one string."""

from collections.abc import Sequence
from typing import Any

from ssd.data.faults import DataError

MAX_SIDE = 1_000_000  # pixels; a larger height or width is invalid
_MAX_ID = 2**63 - 1
_TRUE = ("1", "1.0", "true", "yes", "t", "y")


def is_true(value: Any) -> bool:
    """Returns whether a flag is set: true, 1, 1.0, or one of these as a string."""
    if isinstance(value, str):
        return value.strip().lower() in _TRUE
    return bool(value) if isinstance(value, (bool, int, float)) else False


def as_int(value: Any) -> int | None:
    """Returns an id or a size as a 64-bit integer, or None if it is not one: 1 and "1.0" are, 1.5 and "1_1" are not."""
    if isinstance(value, str):
        if "_" in value:  # int() ignores underscores, but "1_1" is not 11
            return None
        try:
            value = int(value) if len(value) < 40 else None
        except ValueError:
            try:
                value = float(value)
            except ValueError:
                return None
    if isinstance(value, float) and value.is_integer():
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
