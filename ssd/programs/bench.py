"""Benchmark an op against other implementations: runs benchmarks/bench_<op>.py of a source checkout.

    ssd bench                 list the ops
    ssd bench nms --help      show the arguments of a benchmark
    ssd bench nms

The installed package does not contain the benchmarks; run this in a source checkout.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from ssd.common.console import ArgumentParser, console_program, program_name
from ssd.common.errors import unknown

FOLDER = Path(__file__).resolve().parent.parent.parent / "benchmarks"


@console_program
def main(argv: list[str] | None = None) -> None:
    """Runs a benchmark with the arguments that follow its name, and exits with its exit code."""
    parser = ArgumentParser(prog=program_name("bench"), description=__doc__)
    parser.add_argument("op", nargs="?", help="op to benchmark (default: list the ops)")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="arguments of the benchmark")
    args = parser.parse_args(argv)
    known = {path.stem.removeprefix("bench_"): path for path in sorted(FOLDER.glob("bench_*.py"))}
    if not known:
        parser.error(f"there are no benchmarks in {FOLDER}; run this in a source checkout")
    if args.op is None:
        print("\n".join(known))
        return
    if args.op not in known:
        parser.error(unknown("benchmark", args.op, known))
    sys.exit(subprocess.run([sys.executable, str(known[args.op]), *args.arguments]).returncode)
