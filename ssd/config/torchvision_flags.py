"""Flags of torchvision's references/detection/train.py that are not settings here: accepted and explained, or refused.

All others of its flags are fields of `TrainConfig` under the same names. Standard library only.
"""

from __future__ import annotations

import argparse
from typing import Any

_ACCEPTED: dict[str, tuple[dict[str, Any], str]] = {
    "--aspect-ratio-group-factor": (
        {"type": int, "metavar": "K"},
        "changes nothing: batches of like aspect ratios save padding, and SSD warps every image to one size",
    ),
    "--backend": (
        {"metavar": "NAME"},
        "changes nothing: there is one backend, uint8 tensors",
    ),
    "--use-v2": ({"action": "store_true"}, "changes nothing: there is one kind of transforms"),
    "--world-size": ({"type": int, "metavar": "N"}, "changes nothing: torchrun says how many processes there are"),
}
_REFUSED = {
    "--rpn-score-thresh": "is for detectors with a region proposal network; SSD has none. Its own threshold is "
    "--model-option score_threshold=0.01",
    "--use-copypaste": "pastes objects along their masks (simple copy-paste); SSD learns boxes and its data sets here hold "
    "no masks. --data-augmentation lists what there is",
    "--pretrained": "was replaced by --weights, as in torchvision",
    "--prototype": "was removed, as in torchvision",
}


def add_torchvision_flags(parser: argparse.ArgumentParser) -> None:
    """Add these flags to a parser."""
    group = parser.add_argument_group(
        "of torchvision's script, for commands written for it",
        "refused, with the reason: " + ", ".join(_REFUSED),
    )
    for name, (options, effect) in _ACCEPTED.items():
        group.add_argument(name, default=argparse.SUPPRESS, help=effect, **options)
    for name in _REFUSED:
        parser.add_argument(name, action=_Refuse, nargs="?", help=argparse.SUPPRESS)


def notes(given: dict[str, Any]) -> list[str]:
    """Take these flags out of what a parser found; return what to tell of each that was given."""
    told = []
    for name, (_, effect) in _ACCEPTED.items():
        if given.pop(name[2:].replace("-", "_"), None) is not None:
            told.append(f"note: {name} {effect}")
    for name in _REFUSED:
        given.pop(name[2:].replace("-", "_"), None)
    return told


class _Refuse(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: Any, **__: Any) -> None:
        option = self.option_strings[0]
        parser.error(f"{option} {_REFUSED[option]}")
