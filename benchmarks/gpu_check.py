"""Checks and measures everything on a GPU: build, tests, compute-sanitizer and benchmarks, with one JSON report.

python benchmarks/gpu_check.py [--json FILE] [--minutes 20] [--stages build,tests,step_times,...] [--commit HASH]

Stages run in the order of `--stages`, by default the most important first. Each has its own time limit, and all together
have `--minutes`. The report is written after every stage and every row of a benchmark, so that an interrupted run keeps
what is finished; another run for the same commit adds its stages to the file. Commit the file to benchmarks/results/ and
run `python benchmarks/readme_tables.py`, which generates the README's tables of GPU results from it.

Kernels that no GPU has run are tested and measured by

    python benchmarks/gpu_check.py --stages build,unmeasured_tests,unmeasured_memcheck,unmeasured_kernels

Trainings take longer than a check: benchmarks/missing_annotations.py and benchmarks/augmentations.py are run by themselves.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks.stages import Stage, find_program, output_of, run_stages

ROOT = Path(__file__).resolve().parent.parent
SANITIZERS = ("memcheck", "racecheck", "synccheck", "initcheck")
SANITIZER_SECONDS = 45
# What is compared with goals, and then the ops against torchvision: time limit and arguments. The limits include the
# import of torch, the creation of inputs, and the check of every candidate, for which the reference may take seconds.
GOALS: dict[str, tuple[float, str]] = {
    "bench_ops_gpu": (70, "--seconds 0.05"),
    "kernel_times": (40, "--filter nms"),
    "host_times": (30, "--device cuda"),
    "step_times": (150, "--device cuda --steps 15 --ways off on"),
    "start_times": (60, "--device cuda --runs 2"),
    "inference_times": (120, "--device cuda --seconds 0.3 --ways default float32 fused"),
    "bench_data": (40, "--device cuda --seconds 0.3 --filter 'decode JPEG and pack'"),
}
_SLOW = ("nms", "detect", "overhead")
COMPARISONS = {
    f"bench_{name}": (60.0 if name in _SLOW else 30.0, "--device cuda --seconds 0.3")
    for name in (*_SLOW, "loss", "match", "box_iou", "box_codec", "images")
}
UNMEASURED = {"SSD_OPS_UNMEASURED_KERNELS": "1"}  # see csrc/cuda/common/unmeasured.h
UNMEASURED_OPS = "nms batched_nms"
UNMEASURED_TESTS = (
    "tests/ops/test_unmeasured_nms.py",
    "tests/ops/test_unmeasured_nms_ranges.py",
    "tests/ops/test_nms.py",
    "tests/ops/test_batched_nms.py",
)
DETECTOR = (300.0, "--device cuda --seconds 0.3")  # torch.compile takes minutes


def build_stage() -> Stage:
    """Returns the stage that builds in the checkout: pip would also have to be allowed to change the environment."""
    command = [sys.executable, "setup.py", "build_ext", "--inplace"]
    return Stage("build", command, 170, {"SSD_OPS_CUDA": "1"}, essential=True)


def test_stage(name: str, limit: float, *what: str, environment: dict[str, str] | None = None) -> Stage:
    command = [sys.executable, "-m", "pytest", "-m", "cuda", "-v", "--tb=short", "-p", "no:cacheprovider"]
    variables = {"COLUMNS": "300", **(environment or {})}  # a narrow terminal truncates the reasons
    return Stage(name, [*command, *what], limit, variables, read=read_tests)


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


def sanitizer_stage(tool: str, name: str = "", environment: dict[str, str] | None = None, ops: str = "") -> Stage:
    """Returns a stage with small calls of every op, or of `ops`; torch's caching allocator would hide overruns."""
    command = [find_program("compute-sanitizer") or "compute-sanitizer", "--tool", tool, "--error-exitcode", "9"]
    if tool == "memcheck":
        command += ["--report-api-errors", "no"]  # torch probes for features that a machine may lack
    if tool != "initcheck":  # initcheck must see torch's kernels initialize our inputs
        command += ["--kernel-name", "kernel_substring=ssd_ops"]
    command += [sys.executable, "-W", "ignore", "-m", "tests.emu.op_cases", "--cuda", *ops.split()]
    variables = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1", **(environment or {})}
    return Stage(name or tool, command, SANITIZER_SECONDS, variables, read=read_sanitizer)


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


def benchmark_stage(script: str, folder: Path, limit: float, arguments: str) -> Stage:
    report = folder / f"{script}.json"
    command = [sys.executable, f"benchmarks/{script}.py", *shlex.split(arguments), "--json", str(report)]
    return Stage(script, command, limit, report=report)


def all_stages(folder: Path) -> list[Stage]:
    """Returns all stages, most important first: checks before measurements."""
    properties = "tests/ops/properties"
    tests = test_stage("tests", 170, "tests/ops", "tests/ssd", f"--ignore={properties}")
    checks = [build_stage(), tests, *map(sanitizer_stage, SANITIZERS[:2])]
    measured = [benchmark_stage(name, folder, *how) for name, how in {**GOALS, **COMPARISONS}.items()]
    rest = [*map(sanitizer_stage, SANITIZERS[2:]), test_stage("properties", 90, properties)]
    unmeasured = [
        test_stage("unmeasured_tests", 120, *UNMEASURED_TESTS, environment=UNMEASURED),
        sanitizer_stage("memcheck", "unmeasured_memcheck", UNMEASURED, UNMEASURED_OPS),
        benchmark_stage("unmeasured_kernels", folder, 200, ""),
    ]
    return [*checks, *measured, *unmeasured, *rest, benchmark_stage("bench_detector", folder, *DETECTOR)]


# Packages beside torch without which stages fail. A missing one is named before the first of them runs.
PACKAGES = "torchvision numpy pycocotools matplotlib PIL yaml tqdm setuptools pytest hypothesis".split()
_PROBE = """
import json, torch
names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
print(json.dumps({"torch": f"{torch.__version__} {torch.version.cuda}", "names": names}))
"""


def machine(commit: str | None) -> dict[str, Any]:
    """Returns a description of the machine, without importing torch in this process; exits with 1 if there is no GPU."""
    printed = output_of(sys.executable, "-W", "ignore", "-c", _PROBE)
    found = json.loads(printed) if printed else {"torch": "not found", "names": []}
    if not found["names"]:
        seen = output_of("nvidia-smi", "--query-gpu=name", "--format=csv,noheader").splitlines()
        reason = f"nvidia-smi shows {seen[0]}, but not torch ({found['torch']})" if seen else "there is none"
        sys.exit(
            f"gpu_check.py needs an NVIDIA GPU that torch sees, and {reason}. Without a GPU, pytest runs the kernels on "
            "the emulator, and python tests/emu/check_resources.py compiles them."
        )
    query = ("name", "driver_version", "memory.total", "compute_cap")
    rows = output_of("nvidia-smi", f"--query-gpu={','.join(query)}", "--format=csv,noheader").splitlines()
    gpus = [
        dict(zip(("name", "driver", "memory", "compute"), map(str.strip, row.split(",")), strict=True)) for row in rows
    ]
    nvcc = output_of(find_program("nvcc") or "nvcc", "--version")
    release = re.search(r"release (\S+),", nvcc)
    is_checkout = (ROOT / ".git").exists()  # else a repository further up is another project's
    git = ("git", "-C", str(ROOT))
    return {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "gpu": found["names"][0],
        "gpus": gpus,
        "driver": gpus[0]["driver"] if gpus else "unknown",
        "commit": commit or (is_checkout and output_of(*git, "rev-parse", "--short=12", "HEAD")) or "unknown",
        "dirty": is_checkout and bool(output_of(*git, "status", "--porcelain", "--untracked-files=no")),
        "nvcc": release[1] if release else "not found",
        "torch": found["torch"],
        "python": sys.version.split()[0],
        "cpus": os.cpu_count(),
        "missing": [name for name in PACKAGES if find_spec(name) is None],
    }


def main(arguments: list[str] | None = None, stages: Callable[[Path], list[Stage]] = all_stages) -> int:
    """Runs the selected stages; returns 0 if all passed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="default: benchmarks/results/gpu-NAME.json")
    parser.add_argument("--minutes", type=float, default=20.0, help="total time limit (default: 20)")
    names = ", ".join(stage.name for stage in stages(Path()))
    parser.add_argument("--stages", default="", help=f"some of them, separated by commas, in this order: {names}")
    parser.add_argument("--commit", help="commit hash, if the checkout has no .git")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped by SIGTERM"))  # ends the running stage, too
    with tempfile.TemporaryDirectory() as folder:
        chosen = stages(Path(folder))
        if options.stages:
            requested = options.stages.split(",")
            if unknown := set(requested) - {stage.name for stage in chosen}:
                parser.error(f"no stage {', '.join(sorted(unknown))}: there are {', '.join(s.name for s in chosen)}")
            chosen = [stage for name in requested for stage in chosen if stage.name == name]
        description = machine(options.commit)
        if description.get("missing"):
            missing = ", ".join(description["missing"])
            print(f'warning: without {missing}, stages will fail; pip install -e ".[test]" installs all', flush=True)
        slug = re.sub(r"[^a-z0-9]+", "-", description["gpu"].lower().removeprefix("nvidia ")).strip("-")
        path = options.json or ROOT / "benchmarks" / "results" / f"gpu-{slug}.json"
        given = f" --stages {options.stages}" if options.stages else ""
        description["command"] = f"python benchmarks/gpu_check.py{given} --minutes {options.minutes:g}"
        description["budget_seconds"] = 60 * options.minutes
        report = run_stages(chosen, description, path, 60 * options.minutes)
    for failure in report["failures"]:
        print(f"failed: {failure}", file=sys.stderr)
    print(f"{path}: {'all passed' if report['passed'] else 'not all passed'} in {report['seconds']:.0f} s")
    return 0 if report["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
