"""Forms of the functions and results of `ssd_ops` in TorchScript and in saved programs."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

from torch.utils import _pytree

from ssd_ops import checks, scripting
from ssd_ops._schemas import SCHEMAS
from ssd_ops.results import Detections, PriorMatches, SoftDetections


def register(functions: dict[str, Any]) -> None:
    """Registers the TorchScript form of each of `functions` that has one, and the names of the results."""
    for name, form in vars(scripting).items():
        if name in functions and not name.startswith("_") and callable(form):
            functions[name].__prepare_scriptable__ = partial(_scriptable, form)
    for kind in (Detections, PriorMatches, SoftDetections):
        # so that torch.export.save can write a program that returns one
        _pytree._register_namedtuple(kind, serialized_type_name=f"ssd_ops.{kind.__name__}")


def _scriptable(form: Callable[..., Any]) -> Callable[..., Any]:
    _name_error_of_onnx()
    return form


@cache
def _name_error_of_onnx() -> None:
    """Makes torch.onnx.export say what to do with a compiled module: ONNX forms need tracing, which it does not do.

    Called when a module is compiled, since importing the exporter takes time.
    """
    from torch.onnx import register_custom_op_symbolic

    def fail(name: str, *_: Any) -> None:
        checks.fail(
            f"ssd_ops.{name} in a module that torch.jit.script compiled has no form in ONNX: export the module itself, "
            "before it is compiled"
        )

    for name in SCHEMAS:
        register_custom_op_symbolic(f"ssd_ops::{name}", partial(fail, name), 9)  # the oldest set of operators
