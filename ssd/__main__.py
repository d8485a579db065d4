"""The program `ssd` (or `python -m ssd`): dispatches to the command named by its first argument."""

from __future__ import annotations

import sys
from importlib import import_module

from ssd.common.console import console_program, package_version
from ssd.common.errors import near_name

# Command -> (module whose main() it runs, description).
COMMANDS = {
    "train": ("ssd.train", "train a detector on a data set"),
    "predict": ("ssd.programs.predict", "detect objects in images and videos"),
    "eval": ("ssd.programs.eval", "evaluate a checkpoint on a data set"),
    "replay": ("ssd.programs.replay", "replay the batch of a non-finite loss"),
    "serve": ("ssd.programs.serve", "serve trained models over HTTP, with a page to look at"),
    "export": ("ssd.programs.export", "write a trained model for other runtimes (ONNX, torch.export, AOTInductor)"),
    "convert": ("ssd.programs.convert", "convert weights from one SSD system to another"),
    "data": ("ssd.programs.data", "check a data set, review its annotations with a trained detector, or pack it"),
    "doctor": ("ssd.programs.doctor", "check the installation: versions, compiled kernels, devices"),
    "bench": ("ssd.programs.bench", "benchmark an op against other libraries (in a source checkout)"),
}


@console_program
def main() -> None:
    """Runs the command that the command line names; exits with 2 without one."""
    name, *arguments = sys.argv[1:] or [""]
    if name in ("-h", "--help"):
        print(usage())
    elif name == "--version":
        print(f"ssd {package_version()}")
    elif name in COMMANDS:
        import_module(COMMANDS[name][0]).main(arguments)
    elif not name:
        print(usage(), file=sys.stderr)
        sys.exit(2)
    else:
        near = near_name(name, COMMANDS)
        hint = f", did you mean {near!r}?" if near else "."
        print(f"ssd: error: unknown command {name[:60]!r}{hint} Known: {', '.join(COMMANDS)}", file=sys.stderr)
        sys.exit(2)


def usage() -> str:
    """Returns the text of --help."""
    width = max(map(len, COMMANDS))
    rows = "\n".join(f"  {name:<{width}}  {words}" for name, (_, words) in COMMANDS.items())
    return (
        f"usage: ssd [--help] [--version] COMMAND ...\n\nSSD object detection.\n\ncommands:\n{rows}\n\n"
        "`ssd COMMAND --help` lists the arguments of a command."
    )


if __name__ == "__main__":
    main()
