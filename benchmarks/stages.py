"""Runs commands one after another with time limits, and writes their results to a JSON file after each of them."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.saving import save

ROOT = Path(__file__).resolve().parent.parent
TAIL = 3000  # characters of output kept for a stage that did not pass
MIN_STAGE_SECONDS = 5.0  # a stage is not started with less time left


@dataclass
class Stage:
    """One command."""

    name: str
    command: list[str]
    limit: float
    """Seconds after which it is killed, with all its child processes."""
    environment: dict[str, str] = field(default_factory=dict)
    """Environment variables in addition to those of this process."""
    read: Callable[[str], dict[str, Any]] | None = None
    """Parses its output into details of the result; a nonempty list `failures` marks the stage as failed."""
    report: Path | None = None
    """A JSON file that it writes, included in the report under `benchmarks`."""
    essential: bool = False
    """Whether the remaining stages are skipped if this one fails."""


@dataclass
class Result:
    """Result of a stage."""

    name: str
    command: str
    status: str = "not started"
    """passed, failed, timeout, interrupted (with the whole check), missing (no such program) or not started."""
    seconds: float = 0.0
    limit: float = 0.0
    failures: list[str] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)
    output_tail: str = ""


def run_stages(stages: list[Stage], machine: dict[str, Any], path: Path, seconds: float) -> dict[str, Any]:
    """Runs the stages within a total of `seconds`; the file at `path` always holds the report so far.

    What the file has of other stages, and of stages for which no time is left, is kept if machine and commit are the same.
    """
    start = time.monotonic()
    before = _previous(path, machine)
    report: dict[str, Any] = {"machine": machine, "seconds": 0.0, "passed": False, "stages": []}
    report["benchmarks"] = before["benchmarks"]
    results = {found["name"]: Result(**found) for found in before["stages"]}
    results = {stage.name: Result(stage.name, _shown(stage)) for stage in stages} | results

    def write() -> None:
        _write(report, [*results.values()], path, before["seconds"] + time.monotonic() - start)

    broken = ""
    for stage in stages:
        left = seconds - (time.monotonic() - start)
        if broken or left < MIN_STAGE_SECONDS:
            if results[stage.name].status == "not started":  # else it is what an earlier run found
                results[stage.name].failures = [f"{broken} failed" if broken else "no time was left"]
            continue
        result = results[stage.name] = Result(stage.name, _shown(stage), "interrupted", limit=min(stage.limit, left))
        report["benchmarks"].pop(stage.name, None)
        write()
        print(f"{stage.name} (at most {result.limit:.0f} s): {result.command}", flush=True)

        def collect(stage: Stage = stage) -> None:
            if stage.report is None or not stage.report.exists():
                return
            measured = json.loads(stage.report.read_text(encoding="utf-8"))
            measured["machine"]["commit"] = measured["machine"].get("commit") or machine.get("commit", "")
            if report["benchmarks"].get(stage.name) != measured:
                report["benchmarks"][stage.name] = measured
                write()

        _run(stage, result, collect)
        if stage.essential and result.status != "passed":
            broken = stage.name
        print(f"  {result.status} in {result.seconds:.1f} s {result.details.get('counts', '')}", flush=True)
    write()
    return report


def _previous(path: Path, machine: dict[str, Any]) -> dict[str, Any]:
    """Returns the report that a file has of this machine and commit, else an empty one."""
    empty = {"stages": [], "benchmarks": {}, "seconds": 0.0}
    if not path.exists():
        return empty
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    same = all(found["machine"].get(name) == machine.get(name) for name in ("gpu", "driver", "torch", "commit"))
    return found if same else empty


def _run(stage: Stage, result: Result, collect: Callable[[], None]) -> None:
    """Runs a stage; `collect` is called about every second, so that being killed costs no finished row."""
    begin = time.monotonic()
    environment = {**os.environ, "SSD_OPS_REQUIRE": "1", "PYTHONUNBUFFERED": "1", **stage.environment}
    code = None
    with tempfile.TemporaryFile() as file:  # not a pipe: keeps what was written before a kill
        try:
            process = subprocess.Popen(
                stage.command, cwd=ROOT, env=environment, stdout=file, stderr=file, start_new_session=True
            )
        except OSError as error:
            result.status, result.failures = "missing", [str(error)]
            return
        try:
            while code is None and time.monotonic() - begin < result.limit:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    code = process.wait(min(1.0, max(0.0, result.limit - (time.monotonic() - begin))))
                collect()
        finally:
            if code is None:  # also if this process is interrupted
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        file.seek(0)
        text = file.read().decode(errors="replace").replace(f"{ROOT}/", "").replace(str(ROOT), ".")
    result.seconds = round(time.monotonic() - begin, 1)
    found = stage.read(text) if stage.read else {}
    result.failures, result.details = list(found.pop("failures", [])), found
    if code is None:
        result.status = "timeout"
        result.failures.append(f"stopped after {result.limit:.0f} s")
    elif code or result.failures:
        result.status = "failed"
        result.failures = result.failures or [f"exit status {code}: {text.strip().splitlines()[-1:]}"]
    else:
        result.status = "passed"
        return
    result.output_tail = text[-TAIL:]


def _write(report: dict[str, Any], results: list[Result], path: Path, seconds: float) -> None:
    """Completes the report and replaces the file."""
    report["seconds"] = round(seconds, 1)
    report["stages"] = [asdict(result) for result in results]
    report["passed"] = all(result.status == "passed" for result in results)
    report["failures"] = [
        f"{result.name}: {line}" for result in results for line in result.failures if result.status != "passed"
    ]
    save(path, report)


def _shown(stage: Stage) -> str:
    """Returns the command as typed in the checkout."""
    environment = [f"{name}={value}" for name, value in stage.environment.items()]
    words = ["python" if word == sys.executable else word for word in stage.command]
    return " ".join([*environment, *(Path(word).name if Path(word).is_absolute() else word for word in words)])


def find_program(name: str) -> str | None:
    """Returns the path of a CUDA toolkit program: from PATH, CUDA_HOME, CUDA_PATH or /usr/local/cuda."""
    homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"]
    return shutil.which(name) or next((p for home in homes if home and (p := shutil.which(f"{home}/bin/{name}"))), None)


def output_of(*command: str) -> str:
    """Returns the output of a command, or "" if it fails or is missing."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
