"""What Python adds to the ops: the reference as the implementation of last resort, and shapes for tracing.

The dispatcher chooses: a compiled kernel stands under the key CPU or CUDA and wins; the reference stands under
CompositeExplicitAutograd and serves every device without one, and all devices when no library was compiled.
"""

from __future__ import annotations

import torch

from ssd_ops import _autograd, _fake, _fallback
from ssd_ops._schemas import SCHEMAS


def register(namespace: str, *, defined: bool) -> torch.library.Library:
    """Register reference, fake kernels and gradients of every op under `namespace`.

    Args:
        namespace: `ssd_ops`, or that of a second copy of the ops, which tests make.
        defined: Whether a C++ library has defined the ops already.

    Returns:
        The library object; the registrations live as long as it does.
    """
    library = torch.library.Library(namespace, "FRAGMENT")
    for name, schema in SCHEMAS.items():
        if not defined:
            library.define(schema.text)
        library.impl(name, _fallback.implementation(schema), "CompositeExplicitAutograd")
        torch.library.register_fake(f"{namespace}::{name}", _fake.implementation(schema), lib=library)
    _autograd.register(namespace, library)
    return library
