"""Checks everything on a GPU: build, tests, compute-sanitizer and benchmarks, with one JSON report.

python benchmarks/gpu_check.py [--json FILE] [--minutes 9] [--stages build,tests,...] [--commit HASH]

The most important stages run first. Each has its own time limit, and all together have `--minutes`. The report is written
after every stage, so that an interrupted run keeps its finished stages. Commit the file to benchmarks/results/ and run
`python benchmarks/readme_tables.py`, which generates the README's tables of GPU results from it.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks.stages import Stage, find_program, output_of, run_stages

ROOT = Path(__file__).resolve().parent.parent
BENCHMARKS = ("nms", "detect", "loss", "match", "box_iou", "box_codec", "images", "overhead")
SANITIZERS = ("memcheck", "racecheck", "synccheck", "initcheck")
# Time limits include the import of torch, the creation of inputs, and the check of every candidate against the reference,
# whose NMS takes seconds per call. The report of a stopped benchmark keeps its finished cases.
BENCHMARK_SECONDS = dict.fromkeys(BENCHMARKS, 30) | {"nms": 60, "detect": 60, "overhead": 60}
DETECTOR_SECONDS = 300  # torch.compile takes minutes; the report keeps finished cases
SANITIZER_SECONDS = 45


def build_stage() -> Stage:
    command = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-build-isolation", "-e", "."]
    return Stage("build", command, 170, {"SSD_OPS_CUDA": "1"}, essential=True)


def test_stage(name: str, limit: float, *what: str) -> Stage:
    command = [sys.executable, "-m", "pytest", "-m", "cuda", "-v", "--tb=short", "-p", "no:cacheprovider"]
    return Stage(
        name, [*command, *what], limit, {"COLUMNS": "300"}, read=read_tests
    )  # a narrow terminal truncates the reasons


def read_tests(text: str) -> dict[str, Any]:
    """Parses the output of pytest -v, which may be truncated: it has a line for each finished test."""
    counts = dict.fromkeys(("passed", "failed", "skipped"), 0)
    failures = []
    for test, outcome in re.findall(r"^(\S+::.+?) (PASSED|FAILED|ERROR|SKIPPED)\b", text, flags=re.MULTILINE):
        name = {"PASSED": "passed", "SKIPPED": "skipped"}.get(outcome, "failed")
        counts[name] += 1
        if name == "failed":
            reason = re.search(rf"^(?:FAILED|ERROR) {re.escape(test)} - (.*)$", text, flags=re.MULTILINE)
            failures.append(f"{test}: {reason[1] if reason else outcome.lower()}")
    failures += [
        f"{file}: not collected" for file in re.findall(r"^ERROR ([^\s:]+)(?: - |$)", text, flags=re.MULTILINE)
    ]
    if not counts["passed"]:
        failures.append("no test passed: see the end of the output")
    return {"counts": counts, "failures": failures}


def sanitizer_stage(tool: str) -> Stage:
    """Returns a stage with small calls of every op, without torch's caching allocator, which would hide overruns."""
    command = [find_program("compute-sanitizer") or "compute-sanitizer", "--tool", tool, "--error-exitcode", "9"]
    if tool == "memcheck":
        command += ["--report-api-errors", "no"]  # torch probes for features that a machine may lack
    if tool != "initcheck":  # initcheck must see torch's kernels initialize our inputs
        command += ["--kernel-name", "kernel_substring=ssd_ops"]
    command += [sys.executable, "-W", "ignore", "-m", "tests.emu.op_cases", "--cuda"]
    return Stage(tool, command, SANITIZER_SECONDS, {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}, read=read_sanitizer)


def read_sanitizer(text: str) -> dict[str, Any]:
    """Parses the summary, and the first line of each report."""
    summary = re.search(r"(?:ERROR|RACECHECK) SUMMARY: (.*)", text)
    ran = re.findall(r"^(\w+): ran$", text, flags=re.MULTILINE)
    kinds = "Invalid|Uninitialized|Misaligned|Barrier|Race reported|Potential"
    reports = re.findall(rf"^========= (?:Error: |Warning: )?((?:{kinds}).*)$", text, flags=re.MULTILINE)
    failures = [*dict.fromkeys(reports)][:20]
    if summary is None:
        reason = re.search(r"^========= (.*(?:not supported|rror).*)$", text, flags=re.MULTILINE)
        failures.append(f"no summary: {reason[1] if reason else 'see the end of the output'}")
    elif not re.match(r"0 (?:errors|hazards)", summary[1]):
        failures = failures or [summary[1]]
    return {
        "counts": {"calls": len(ran), "ops": len(set(ran))},
        "summary": summary and summary[1],
        "failures": failures,
    }


def benchmark_stage(name: str, folder: Path, limit: float) -> Stage:
    report = folder / f"{name}.json"
    command = [
        sys.executable,
        f"benchmarks/bench_{name}.py",
        "--device",
        "cuda",
        "--seconds",
        "0.3",
        "--json",
        str(report),
    ]
    return Stage(f"bench_{name}", command, limit, report=report)


def all_stages(folder: Path) -> list[Stage]:
    """Returns all stages, most important first: checks before measurements."""
    properties = "tests/ops/properties"
    tests = test_stage("tests", 170, "tests/ops", "tests/ssd", f"--ignore={properties}")
    checks = [build_stage(), tests, *map(sanitizer_stage, SANITIZERS[:2])]
    measured = [benchmark_stage(name, folder, BENCHMARK_SECONDS[name]) for name in BENCHMARKS]
    rest = [*map(sanitizer_stage, SANITIZERS[2:]), test_stage("properties", 90, properties)]
    return [*checks, *measured, *rest, benchmark_stage("detector", folder, DETECTOR_SECONDS)]


def machine(commit: str | None) -> dict[str, Any]:
    """Returns a description of the machine, without importing torch."""
    printed = output_of(
        "nvidia-smi", "--query-gpu=name,driver_version,memory.total,compute_cap", "--format=csv,noheader"
    )
    if not printed:
        sys.exit(
            "gpu_check.py needs an NVIDIA GPU, and nvidia-smi shows none. Without a GPU, pytest runs the kernels on the "
            "emulator, and python tests/emu/check_resources.py compiles them."
        )
    gpus = [[cell.strip() for cell in line.split(",")] for line in printed.splitlines()]
    versions = "import torch; print(torch.__version__, torch.version.cuda)"
    nvcc = output_of(find_program("nvcc") or "nvcc", "--version")
    release = re.search(r"release (\S+),", nvcc)
    git = ("git", "-C", str(ROOT))
    return {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "gpu": gpus[0][0],
        "gpus": [{"name": name, "driver": d, "memory": m, "compute": c} for name, d, m, c in gpus],
        "driver": gpus[0][1],
        "commit": commit or output_of(*git, "rev-parse", "--short=12", "HEAD") or "unknown",
        "dirty": bool(output_of(*git, "status", "--porcelain", "--untracked-files=no")),
        "nvcc": release[1] if release else "not found",
        "torch": output_of(sys.executable, "-c", versions) or "not found",
        "python": sys.version.split()[0],
        "cpus": os.cpu_count(),
    }


def main(arguments: list[str] | None = None, stages: Callable[[Path], list[Stage]] = all_stages) -> int:
    """Runs the selected stages; returns 0 if all passed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="default: benchmarks/results/gpu-NAME.json")
    parser.add_argument("--minutes", type=float, default=9.0, help="total time limit (default: 9)")
    parser.add_argument(
        "--stages", default="", help="comma-separated: build, tests, memcheck, bench_nms, ... (default: all)"
    )
    parser.add_argument("--commit", help="commit hash, if the checkout has no .git")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        chosen = stages(Path(folder))
        if options.stages:
            requested = options.stages.split(",")
            if unknown := set(requested) - {stage.name for stage in chosen}:
                parser.error(f"no stage {', '.join(sorted(unknown))}: there are {', '.join(s.name for s in chosen)}")
            chosen = [stage for stage in chosen if stage.name in requested]
        description = machine(options.commit)
        slug = re.sub(r"[^a-z0-9]+", "-", description["gpu"].lower().removeprefix("nvidia ")).strip("-")
        path = options.json or ROOT / "benchmarks" / "results" / f"gpu-{slug}.json"
        description["command"] = "python benchmarks/gpu_check.py"
        description["budget_seconds"] = 60 * options.minutes
        report = run_stages(chosen, description, path, 60 * options.minutes)
    for failure in report["failures"]:
        print(f"failed: {failure}", file=sys.stderr)
    print(f"{path}: {'all passed' if report['passed'] else 'not all passed'} in {report['seconds']:.0f} s")
    return 0 if report["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
