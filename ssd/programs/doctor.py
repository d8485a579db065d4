"""Check the installation: versions, compiled kernels and devices, with a fix for every problem found.

    ssd doctor
    ssd doctor --json

Exits with 0 if there are no problems, with 1 otherwise. Please include its output in bug reports.
"""

from __future__ import annotations

import json
import sys

from ssd.common.console import ArgumentParser, console_program, program_name


@console_program
def main(argv: list[str] | None = None) -> None:
    """Prints the diagnosis; exits with 1 if there are problems."""
    parser = ArgumentParser(prog=program_name("doctor"), description=__doc__)
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    args = parser.parse_args(argv)
    from ssd.diagnosis import diagnose  # imports torch

    report = diagnose()
    print(json.dumps(report.as_dict(), indent=2) if args.json else report)
    sys.exit(1 if report.problems else 0)
