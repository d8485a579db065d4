"""Replay the batch of a non-finite loss.

    ssd replay runs/NAME

Training that stops because a loss is not finite saves the batch as non_finite.pt in the run folder. This program computes
its losses and gradients once more and prints them for the whole batch and for each image, with the first layer whose
output is not finite. It starts from the weights in the file, or else from last.pt beside it, and applies --amp and
--accumulate of the run; it prints which settings it does not apply. Exits with 1 if a value is not finite.
"""

from __future__ import annotations

import sys

from ssd.common.console import ArgumentParser, console_program, program_name
from ssd.programs.device_arguments import add_device_flag


@console_program
def main(argv: list[str] | None = None) -> None:
    """Runs the program."""
    parser = ArgumentParser(prog=program_name("replay"), description=__doc__)
    parser.add_argument("source", help="run folder, or the file non_finite.pt")
    add_device_flag(parser)
    args = parser.parse_args(argv)
    from ssd.common.errors import ConfigError, DataError
    from ssd.engine.replay import read_saved, replay
    from ssd.engine.setup import choose_device

    try:
        report, is_finite = replay(read_saved(args.source), choose_device(args.device))
    except (ConfigError, DataError) as error:
        sys.exit(f"error: {error}")
    print(report)
    sys.exit(0 if is_finite else 1)
