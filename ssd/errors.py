"""Errors of the user's data and settings, and the hint at the nearest known name. Standard library only."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

# What other programs call an option of the model here.
_OPTIONS_ELSEWHERE = {
    "pretrained": "weights_backbone",
    "weights": "weights_backbone",
    "backbone_weights": "weights_backbone",
}


class ConfigError(ValueError):
    """An invalid setting; the message names it, what was expected and what came."""


class DataError(ValueError):
    """An error in the user's data or in how it was asked for; its text names the file and the remedy."""


class NoSplitError(DataError):
    """A data set has no split of the name asked for.

    Attributes:
        splits: names of the splits that were found; none where the data set is not split at all.
    """

    def __init__(self, message: str, splits: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.splits = splits


def near_name(word: object, known: Iterable[str]) -> str | None:
    """Returns the known name that a word was probably meant for: at most two letters are wrong, or a quarter of them."""
    folded = {_fold(name): name for name in known}
    typed = _fold(str(word))
    for close in difflib.get_close_matches(typed, folded, n=3, cutoff=0.6):
        same = sum(block.size for block in difflib.SequenceMatcher(None, typed, close).get_matching_blocks())
        if len(typed) + len(close) - 2 * same <= max(2, len(typed) // 4):
            return folded[close]
    return None


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """Writes "unknown KIND 'name', did you mean 'near'? Known: a, b" without a near one if nothing is near."""
    names = sorted(known)
    meant = _OPTIONS_ELSEWHERE.get(str(name))
    near = meant if meant in names else near_name(name, names)
    hint = f", did you mean {near!r}?" if near else "."
    return f"unknown {kind} {name!r}{hint} Known: {', '.join(names)}"


def _fold(name: str) -> str:
    return name.lower().replace("-", "_")
