"""Flags of torchvision's references/detection/train.py that have no effect here or are rejected.

All its other flags are fields of `TrainConfig` under the same names. Standard library only.
"""

from __future__ import annotations

import argparse
from typing import Any

_ACCEPTED: dict[str, tuple[dict[str, Any], str]] = {
    "--aspect-ratio-group-factor": (
        {"type": int, "metavar": "K"},
        "no effect: it groups images to save padding, and SSD resizes every image to the same size",
    ),
    "--backend": ({"metavar": "NAME"}, "no effect: images are always uint8 tensors"),
    "--use-v2": ({"action": "store_true"}, "no effect: there is only one set of transforms"),
    "--world-size": ({"type": int, "metavar": "N"}, "no effect: torchrun sets the number of processes"),
}
_REJECTED = {
    "--rpn-score-thresh": "is for detectors with a region proposal network, which SSD does not have. To set the score "
    "threshold use --model-option score_threshold=0.01",
    "--use-copypaste": "needs instance masks, which the data sets here do not have; see --data-augmentation for what is "
    "available",
    "--pretrained": "was replaced by --weights, as in torchvision",
    "--prototype": "was removed, as in torchvision",
}


def add_torchvision_flags(parser: argparse.ArgumentParser) -> None:
    """Adds these flags to a parser."""
    group = parser.add_argument_group(
        "compatibility",
        "Flags of torchvision's script, so that its commands run unchanged. Rejected with an explanation: "
        + ", ".join(_REJECTED),
    )
    for name, (options, effect) in _ACCEPTED.items():
        group.add_argument(name, default=argparse.SUPPRESS, help=effect, **options)
    for name in _REJECTED:
        parser.add_argument(name, action=_Reject, nargs="?", help=argparse.SUPPRESS)


def pop_torchvision_flags(given: dict[str, Any]) -> list[str]:
    """Removes these flags from parsed arguments; returns a notice for each one that was given."""
    notices = []
    for name, (_, effect) in _ACCEPTED.items():
        if given.pop(name[2:].replace("-", "_"), None) is not None:
            notices.append(f"note: {name} has {effect}")
    for name in _REJECTED:
        given.pop(name[2:].replace("-", "_"), None)
    return notices


class _Reject(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: Any, **__: Any) -> None:
        option = self.option_strings[0]
        parser.error(f"{option} {_REJECTED[option]}")
