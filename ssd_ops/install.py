"""Runs a program with torchvision's ops replaced: `python -m ssd_ops.install script.py ARGUMENTS`, or `-m MODULE`."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path


def main() -> None:
    """Installs the ops, then runs the program that the command line names as Python would."""
    import ssd_ops

    arguments = sys.argv[1:]
    as_module = arguments[:1] == ["-m"]
    if as_module:
        arguments = arguments[1:]
    if not arguments or (arguments[0].startswith("-") and not as_module):
        sys.exit(
            "usage: python -m ssd_ops.install SCRIPT.py ARGUMENTS, or python -m ssd_ops.install -m MODULE ARGUMENTS"
        )
    ssd_ops.install()
    sys.argv = arguments
    if as_module:
        sys.path[0] = ""
        runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
    else:
        sys.path[0] = str(Path(arguments[0]).resolve().parent)
        runpy.run_path(arguments[0], run_name="__main__")


if __name__ == "__main__":
    main()
