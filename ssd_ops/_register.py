"""What Python adds to the ops: the reference as the implementation of last resort, and shapes for tracing.

The dispatcher chooses: a compiled kernel stands under the key CPU or CUDA and wins; the reference stands under
CompositeExplicitAutograd and serves every device without one, and all devices when no library was compiled.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ssd_ops import _autograd, _fake, _fallback, _library


def schemas() -> list[str]:
    """Return the schema of every op from `schemas.def`, the list that the C++ library is compiled with."""
    text = Path(__file__).with_name("schemas.def").read_text(encoding="utf-8")
    return re.findall(r'^"(.*)",$', text, flags=re.MULTILINE)


def register(namespace: str, *, defined: bool) -> torch.library.Library:
    """Register reference, fake kernels and gradients of every op under `namespace`.

    Args:
        namespace: `ssd_ops`, or that of a second copy of the ops, which tests make.
        defined: Whether a C++ library has defined the ops already.

    Returns:
        The library object; the registrations live as long as it does.
    """
    library, names = torch.library.Library(namespace, "FRAGMENT"), []
    for schema in schemas():
        name = schema.split("(", 1)[0]
        if not defined:
            library.define(schema)
        library.impl(name, _of_last_resort(getattr(_fallback, name)), "CompositeExplicitAutograd")
        torch.library.register_fake(f"{namespace}::{name}", getattr(_fake, name), lib=library)
        names.append(name)
    _autograd.register(namespace, library, names)
    return library


def _of_last_resort(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return `function`, which warns once of tensors that it serves for want of a kernel."""

    @functools.wraps(function)
    def call(tensor: torch.Tensor, *args: Any) -> Any:
        if tensor.device.type not in ("cpu", "meta"):
            _library.warn_of_reference(tensor.device.type)
        return function(tensor, *args)

    return call
