"""Whether optional packages are installed. Standard library only."""

from __future__ import annotations

import importlib.util


def is_installed(package: str) -> bool:
    """Returns whether a package can be imported; a folder of its name without Python files, as in a run, does not count."""
    try:
        spec = importlib.util.find_spec(package)
    except ModuleNotFoundError:  # of the package that it is in
        return False
    return spec is not None and spec.origin is not None
