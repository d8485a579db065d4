"""Registration of what Python adds to the ops: the reference as fallback, and fake kernels for tracing.

The dispatcher chooses: a compiled kernel under the key CPU or CUDA wins; the reference under CompositeExplicitAutograd
runs on every device without one, and on all devices when no library was compiled.
"""

from __future__ import annotations

import torch

from ssd_ops import _autograd, _fake, _fallback
from ssd_ops._schemas import SCHEMAS


def register(namespace: str, *, defined: bool) -> torch.library.Library:
    """Registers reference, fake kernels and gradients of every op under `namespace`.

    Args:
        namespace: `ssd_ops`, or that of a second copy of the ops, for tests.
        defined: Whether a C++ library has already defined the ops.

    Returns:
        The library object, which owns the registrations.
    """
    library = torch.library.Library(namespace, "FRAGMENT")
    for name, schema in SCHEMAS.items():
        if not defined:
            library.define(schema.text)
        library.impl(name, _fallback.implementation(schema), "CompositeExplicitAutograd")
        torch.library.register_fake(f"{namespace}::{name}", _fake.implementation(schema), lib=library)
    _autograd.register(namespace, library)
    return library
