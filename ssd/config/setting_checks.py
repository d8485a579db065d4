"""Checks types and ranges of settings; every error names the setting. Standard library only."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ssd.common.errors import ConfigError, near_name
from ssd.config.other_names import advice_for

_TYPE_NAMES = {
    "str": "a string",
    "int": "an integer",
    "float": "a number",
    "bool": "true or false",
    "list[int]": "a list of integers",
    "dict[str, Any]": "a mapping of names to values",
}
_DATA_FILES = (".yaml", ".yml", ".json", ".csv")
_AT_LEAST_1 = ("epochs", "batch_size", "eval_every", "print_freq", "lr_step_size", "accumulate", "image_size")
_BELOW_1 = ("momentum", "ema_decay", "val_share", "ignore_unlabeled", "label_unlabeled")
_PATHS = ("data_path", "weights", "weights_backbone", "resume", "output_dir")
_ABOVE_0 = ("lr", "lr_gamma", "lr_power")
_AT_MOST = {"workers": 1024, "image_size": 16384}  # more processes or pixels stop the machine
_LONG_DASHES = "\u2012\u2013\u2014\u2212"  # what programs for texts make of --
_MAX_INT = 2**53  # every integer up to here is exact as a float


def check_type(name: str, kind: str, value: Any) -> None:
    """Checks that a value has the type of its field.

    Args:
        name: Name of the setting, as the user wrote it.
        kind: Annotation of the field, such as `"float | None"`.
        value: Value from a file or from Python.

    Raises:
        ConfigError: The value has another type.
    """
    base, _, optional = kind.partition(" | ")
    if value is None and optional:
        return
    if not _is_of(base, value):
        expected = _TYPE_NAMES[base] + (" or null" if optional else "")
        is_quoted = isinstance(value, str) and base in ("int", "float", "bool") and _is_literal(value)
        hint = ", without quotes" if is_quoted else ""
        raise ConfigError(f"{name} must be {expected}{hint}, got {_repr(value)}")


def _is_of(base: str, value: Any) -> bool:
    if base == "list[int]":
        return isinstance(value, (list, tuple)) and all(_is_of("int", item) for item in value)
    if base == "dict[str, Any]":
        return isinstance(value, dict) and all(isinstance(key, str) for key in value)
    if isinstance(value, bool) or base == "bool":
        return isinstance(value, bool) and base == "bool"
    return isinstance(value, {"str": (str,), "int": (int,), "float": (int, float)}[base])


def check_number(name: str, value: Any) -> None:
    """Raises ConfigError if a number is out of the range of its setting."""
    for number in value if isinstance(value, (list, tuple)) else [value]:
        if isinstance(number, (int, float)) and not isinstance(number, bool):
            _check_range(name, number)


def _check_range(name: str, value: int | float) -> None:
    if not math.isfinite(value) if isinstance(value, float) else abs(value) > _MAX_INT:
        raise ConfigError(f"{flag(name)} must be a finite number, got {_repr(value)}")
    if name in _AT_LEAST_1 and value < 1:
        raise ConfigError(f"{flag(name)} must be at least 1, got {value}")
    if name in _ABOVE_0 and not value > 0:
        raise ConfigError(f"{flag(name)} must be above 0, got {value}")
    if name in _BELOW_1 and not 0 <= value < 1:
        raise ConfigError(f"{flag(name)} must be in [0, 1), got {value}")
    if value > _AT_MOST.get(name, value):
        raise ConfigError(f"{flag(name)} must be at most {_AT_MOST[name]}, got {value}")
    if value < 0:
        raise ConfigError(f"{flag(name)} must not be negative, got {value}")


def check_path(name: str, value: str) -> None:
    """Raises ConfigError if a path cannot be valid: too long, with a NUL byte, or without permission to look it up."""
    try:
        Path(value).stat()
    except (FileNotFoundError, NotADirectoryError):
        pass  # whether it must exist is checked by its reader
    except (OSError, ValueError) as error:
        raise ConfigError(f"{name} {_repr(value)}: {getattr(error, 'strerror', None) or error}") from None


def check_paths(values: Mapping[str, Any]) -> None:
    """Raises ConfigError if one of the path settings cannot be a valid path; see `check_path`."""
    if values.get("data_path") == "":  # of a variable that is not set; without a folder, shapes are generated
        raise ConfigError("--data-path must not be empty")
    for name in _PATHS:
        if isinstance(value := values.get(name), str):
            check_path(flag(name), value)


def check_length(given: Mapping[str, Any], base: Mapping[str, Any]) -> None:
    """Raises ConfigError if --epochs is given to a configuration (`base`) whose length is --iterations."""
    if "epochs" in given and "iterations" not in given and base.get("iterations"):
        raise ConfigError(
            f"--epochs {given['epochs']} would have no effect, since the configuration has --iterations "
            f"{base['iterations']}: give --iterations, or count in epochs with --iterations 0, which --lr-steps and "
            "--lr-step-size then count in, too"
        )


def _is_literal(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return text.lower() in ("true", "false")
    return True


def _repr(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > _MAX_INT:
        return "a number of more than 15 digits"  # Python refuses to convert huge integers to strings
    text = "null" if value is None else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def flag(name: str) -> str:
    """Returns the default flag of a field, such as `--batch-size` for `batch_size`."""
    return "--" + name.replace("_", "-")


def did_you_mean(word: object, known: Iterable[str]) -> str:
    """Returns ` (did you mean 'NAME'?)` with the closest known name, or an empty string if none is close."""
    close = near_name(word, known)
    return f" (did you mean {close!r}?)" if close else ""


def suggestion(word: str, known: Iterable[str]) -> str:
    """Returns a hint for an unknown flag or key: another program's name for a setting, or a typo."""
    if word[:1] in _LONG_DASHES:
        return f" (it begins with a long dash: write --{word.lstrip(_LONG_DASHES + '-')})"
    advice = advice_for(word)
    return f" ({advice})" if advice else did_you_mean(word, known)


def check_folder(data_path: str | None) -> None:
    """Raises ConfigError if the folder or file of the data set is given but does not exist."""
    if data_path is None or Path(data_path).is_dir():
        return
    if not (Path(data_path).is_file() and Path(data_path).suffix.lower() in _DATA_FILES):
        raise ConfigError(
            f"--data-path must be an existing folder, or a file with the suffix {', '.join(_DATA_FILES)}, got {data_path!r}"
        )
