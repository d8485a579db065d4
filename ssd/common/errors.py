"""Exceptions for invalid data and settings, and suggestions for misspelled names. Standard library only."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

# Names that other programs use for an option of the model.
_FOREIGN_OPTIONS = {
    "pretrained": "weights_backbone",
    "weights": "weights_backbone",
    "backbone_weights": "weights_backbone",
}


class ConfigError(ValueError):
    """An invalid configuration value; the message names the setting, the expected and the given value."""


class DataError(ValueError):
    """Invalid data or data options; the message names the file and how to fix it."""


class DownloadError(RuntimeError):
    """A download failed; the message names the address, the cause and what to do."""


class NoSplitError(DataError):
    """The data set has no split with the requested name.

    Attributes:
        splits: Names of the existing splits; empty if the data set is not split.
    """

    def __init__(self, message: str, splits: tuple[str, ...] = ()) -> None:
        """Initializes the error with its message and the existing splits."""
        super().__init__(message)
        self.splits = splits


def near_name(word: object, known: Iterable[str]) -> str | None:
    """Returns the closest known name, or None if more than two letters and more than a quarter of them differ."""
    folded = {_fold(name): name for name in known}
    typed = _fold(str(word))
    if not typed.strip("_"):
        return None
    for close in difflib.get_close_matches(typed, folded, n=3, cutoff=0.6):
        same = sum(block.size for block in difflib.SequenceMatcher(None, typed, close).get_matching_blocks())
        if len(typed) + len(close) - 2 * same <= max(2, len(typed) // 4):
            return folded[close]
    return None


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """Returns the message `unknown KIND 'name', did you mean 'near'? Known: a, b`; the question only if one is close."""
    names = sorted(known)
    translated = _FOREIGN_OPTIONS.get(str(name))
    near = translated if translated in names else near_name(name, names)
    hint = f", did you mean {near!r}?" if near else "."
    return f"unknown {kind} {name!r}{hint} Known: {', '.join(names)}"


def _fold(name: str) -> str:
    return name.lower().replace("-", "_")
