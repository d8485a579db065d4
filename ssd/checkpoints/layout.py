"""The names and orders of the weights of one system."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from ssd.checkpoints.names import Rule
from ssd.priors import BoxOrder


@dataclass(frozen=True)
class Layout:
    """The names and orders of one system.

    Args:
        name: The system.
        holds: The networks that it supports, for messages.
        signature: Pattern of a name that only this system has.
        rules: (pattern of this project's name, the system's name for it); the first that matches is used.
        columns_first: Rows of a head are k * A + a (output k of box a, A boxes per cell) instead of a * K + k.
        box_order: Order of the boxes of a cell; None: that of the model.
        scale_shape: Shape of the L2Norm weights.
        dropped: Pattern of the names of buffers that are constants, and of optimizers' state.
        yx_deltas: Whether a box's deltas are in the order y, x, height, width.
        scopes: What precedes every name, by model; loading removes any of them.
        backbone_only: Whether there are no heads.
        preset: The preset that the weights were trained with.
        options: Fields of the preset to change.
        sizes: Prior sizes by the number of classes with the background, 0 for any other number; None: those of the
            preset. amdegroot chooses by this number; for the others it only separates COCO's recipe from the default.
    """

    name: str
    holds: str
    signature: str
    rules: tuple[Rule, ...]
    columns_first: bool = False
    box_order: BoxOrder | None = "pairs"
    scale_shape: tuple[int, ...] = (512,)
    dropped: str = r"$^"
    yx_deltas: bool = False
    scopes: dict[str, str] = field(default_factory=dict)
    backbone_only: bool = False
    preset: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    sizes: dict[int, str] | None = None

    def name_of(self, key: str) -> str | None:
        """Returns the system's name for weights of this project, None if it has none."""
        for pattern, name in self.rules:
            if (match := re.fullmatch(pattern, key)) is not None:
                return name(match)
        return None
