"""Forms of the functions and results of `ssd_ops` in TorchScript and in saved programs."""

from __future__ import annotations

from typing import Any

from torch.utils import _pytree

from ssd_ops import scripting
from ssd_ops.results import Detections, PriorMatches, SoftDetections


def register(functions: dict[str, Any]) -> None:
    """Registers the TorchScript form of each of `functions` that has one, and the names of the results."""
    for name, form in vars(scripting).items():
        if name in functions and not name.startswith("_") and callable(form):
            functions[name].__prepare_scriptable__ = lambda form=form: form
    for kind in (Detections, PriorMatches, SoftDetections):
        # so that torch.export.save can write a program that returns one
        _pytree._register_namedtuple(kind, serialized_type_name=f"ssd_ops.{kind.__name__}")
