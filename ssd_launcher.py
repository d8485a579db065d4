"""The console program `ssd`: makes sure that the package `ssd` is this project's, and hands over to it.

It is a module beside the package, because another project's package named ssd would hide a module inside it.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path


def main() -> None:
    """Runs `ssd.__main__`; exits with 1 if the package `ssd` is another project's."""
    if problem := clash():
        sys.exit(f"error: {problem}")
    from ssd.__main__ import main

    main()


def clash() -> str | None:
    """Returns an error message if Python finds another project's `ssd`, without importing it; None if it is this one."""
    spec = importlib.util.find_spec("ssd")
    if spec is None or spec.origin is None:
        return "the package ssd is not installed completely: pip install --force-reinstall --no-deps ssd_ops"
    origin = Path(spec.origin)
    if origin.name == "__init__.py" and "ssd_ops" in origin.read_text(encoding="utf-8", errors="replace"):
        return None
    from importlib import metadata

    try:
        other = f"another installed project, ssd {metadata.version('ssd')}"
        remedy = "pip uninstall ssd, then pip install --force-reinstall --no-deps ssd_ops"
    except metadata.PackageNotFoundError:
        other, remedy = "another project", "pip install --force-reinstall --no-deps ssd_ops"
        if origin.parent.parent != Path(__file__).parent:  # it did not overwrite ours
            remedy = "rename it or remove it from Python's path (PYTHONPATH, the working folder)"
    return f"the module ssd that Python finds, {origin}, is of {other} and not of ssd_ops. Remedy: {remedy}"
