"""What a setting may be: types and ranges, each with an error that names it. Standard library only."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from typing import Any

from ssd.config.other_names import meaning
from ssd.errors import ConfigError, near_name

_WORDS = {
    "str": "a text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "list[int]": "a list of whole numbers",
    "dict[str, Any]": "a mapping of names to values",
}
_AT_LEAST_1 = ("epochs", "batch_size", "eval_every", "print_freq", "lr_step_size")
_BELOW_1 = ("momentum", "ema_decay", "val_share")
_PATHS = ("data_path", "weights", "weights_backbone", "resume", "output_dir")
_ABOVE_0 = ("lr", "lr_gamma", "lr_power")
_LARGEST = 2**53  # up to it floats and integers are the same; no setting is meant to be larger


def check_type(name: str, kind: str, value: Any) -> None:
    """Raise ConfigError for a value that is not of a field's type.

    Args:
        name: of the setting, as the user wrote it.
        kind: annotation of the field, such as ``"float | None"``.
        value: as it came from a file or from Python.
    """
    base, _, optional = kind.partition(" | ")
    if value is None and optional:
        return
    if not _is_of(base, value):
        words = _WORDS[base] + (" or null" if optional else "")
        hint = (
            ", without quotes" if isinstance(value, str) and base in ("int", "float", "bool") and _reads(value) else ""
        )
        raise ConfigError(f"{name} must be {words}{hint}, got {_repr(value)}")


def _is_of(base: str, value: Any) -> bool:
    if base == "list[int]":
        return isinstance(value, (list, tuple)) and all(_is_of("int", item) for item in value)
    if base == "dict[str, Any]":
        return isinstance(value, dict) and all(isinstance(key, str) for key in value)
    if isinstance(value, bool) or base == "bool":
        return isinstance(value, bool) and base == "bool"
    return isinstance(value, {"str": (str,), "int": (int,), "float": (int, float)}[base])


def check_number(name: str, value: Any) -> None:
    """Raise ConfigError for a number that is out of the range of its setting."""
    for number in value if isinstance(value, (list, tuple)) else [value]:
        if isinstance(number, (int, float)) and not isinstance(number, bool):
            _check_range(name, number)


def _check_range(name: str, value: int | float) -> None:
    if not math.isfinite(value) if isinstance(value, float) else abs(value) > _LARGEST:
        raise ConfigError(f"{flag(name)} must be a finite number, got {_repr(value)}")
    if name in _AT_LEAST_1 and value < 1:
        raise ConfigError(f"{flag(name)} must be at least 1, got {value}")
    if name in _ABOVE_0 and not value > 0:
        raise ConfigError(f"{flag(name)} must be above 0, got {value}")
    if name in _BELOW_1 and not 0 <= value < 1:
        raise ConfigError(f"{flag(name)} must lie in [0, 1), got {value}")
    if value < 0:
        raise ConfigError(f"{flag(name)} must not be negative, got {value}")


def check_path(name: str, value: str) -> None:
    """Raise ConfigError for a text that can name no file: too long, with a NUL, or where nothing may be looked at."""
    try:
        os.stat(value)
    except (FileNotFoundError, NotADirectoryError):
        pass  # what must exist is checked where it is read
    except (OSError, ValueError) as error:
        raise ConfigError(f"{name} {_repr(value)}: {getattr(error, 'strerror', None) or error}") from None


def check_paths(values: Mapping[str, Any]) -> None:
    """Raise ConfigError for a path among settings that can name no file."""
    for name in _PATHS:
        if isinstance(value := values.get(name), str):
            check_path(flag(name), value)


def _reads(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return text.lower() in ("true", "false")
    return True


def _repr(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > _LARGEST:
        return "a number of more than 15 digits"  # Python refuses to write out thousands of them
    text = "null" if value is None else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def flag(name: str) -> str:
    """The flag of a field."""
    return "--" + name.replace("_", "-")


def near(word: object, known: Iterable[str]) -> str:
    """A hint at the known word that is nearest, if one is near."""
    close = near_name(word, known)
    return f" (did you mean {close!r}?)" if close else ""


def meant(word: str, known: Iterable[str]) -> str:
    """A hint at what an unknown flag or key was meant for: a typo, or the name that another program has for it."""
    words = meaning(word)
    return f" ({words})" if words else near(word, known)
