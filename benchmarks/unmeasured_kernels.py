"""Measures the kernels behind SSD_OPS_UNMEASURED_KERNELS=1 (csrc/cuda/common/unmeasured.h) against those in use.

python benchmarks/unmeasured_kernels.py [--filter "000 boxes"] [--rounds 3] [--json FILE]

A process reads the variable once, so bench_ops_gpu.py, which checks results before it times them, and kernel_times.py
run in processes of their own, in turn without and with it. The rows of all runs are printed and written; by default those
of the ops that have such kernels now, `nms` and `batched_nms`, of 1,000 boxes (for comparison) and more.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import _path  # noqa: F401

from benchmarks.saving import saving

FOLDER = Path(__file__).resolve().parent
SWITCH = "SSD_OPS_UNMEASURED_KERNELS"
SCRIPTS = {"bench_ops_gpu": ("--seconds", "0.1"), "kernel_times": ()}


def main() -> None:
    """Runs both scripts in turn without and with the switch, and writes the report after each run."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--filter", default="000 boxes", help="only rows whose name contains this (default: 000 boxes)")
    parser.add_argument("--rounds", type=int, default=3, help="runs of bench_ops_gpu.py for each (default: 3)")
    parser.add_argument("--json", type=Path, help="write machine, command and the rows of all runs to this file")
    arguments = parser.parse_args()
    report: dict[str, Any] = {"machine": {}, "runs": []}
    with saving(arguments.json, report) as measuring:
        for i in range(arguments.rounds + 1):
            script = "bench_ops_gpu" if i < arguments.rounds else "kernel_times"
            for switch in ("0", "1"):
                with measuring(f"{script}, {SWITCH}={switch}"):
                    print(f"{SWITCH}={switch} {script}.py", flush=True)
                    found = run(script, switch, "--filter", arguments.filter, *SCRIPTS[script])
                    report["machine"] = found["machine"]
                    report["runs"].append({"script": script, "unmeasured": switch == "1", "rows": found["rows"]})


def run(script: str, switch: str, *arguments: str) -> dict[str, Any]:
    """Returns the report of a benchmark, which prints its table."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "report.json"
        command = [sys.executable, str(FOLDER / f"{script}.py"), *arguments, "--json", str(path)]
        code = subprocess.run(command, env={**os.environ, SWITCH: switch}).returncode
        if code:
            raise RuntimeError(f"{script}.py ended with {code}: see its output above")
        report: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return report


if __name__ == "__main__":
    main()
