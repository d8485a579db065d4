"""What benchmarks have measured: the reports in benchmarks/results, and their cases as rows of Markdown tables."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from benchmarks.table import duration

ROOT = Path(__file__).resolve().parent.parent


def files() -> list[dict[str, Any]]:
    """Returns the contents of all result files."""
    paths = sorted((ROOT / "benchmarks" / "results").glob("*.json"))
    return [json.loads(path.read_text(encoding="utf-8")) for path in paths]


def load(kind: str) -> list[dict[str, Any]]:
    """Returns the reports of one kind of device, `cpu` or `gpu`, oldest first."""
    parts = [part for file in files() for part in (file, *file.get("benchmarks", {}).values())]
    reports = [part for part in parts if "cases" in part and ("gpu" in part["machine"]) == (kind == "gpu")]
    return sorted(reports, key=lambda report: report["machine"]["date"])


def is_avx2(report: dict[str, Any]) -> bool:
    """Returns whether the CPU kernels ran with AVX2 and without AVX-512."""
    return _isa(report["machine"]) == " (AVX2)"


def _isa(machine: dict[str, Any]) -> str:
    """Returns the instruction set of the CPU kernels as a suffix, such as " (AVX2)"."""
    isa = (machine.get("ssd_ops", {}).get("compiled") or {}).get("isa_chosen")
    return {"avx2": " (AVX2)", "avx512": " (AVX-512)"}.get(isa, "")


def newest(reports: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Returns the newest times of each case."""
    cases: dict[str, dict[str, Any]] = {}
    for report in reports:
        cases.update(report["cases"])
    return cases


def ratio_of(timings: dict[str, Any], peer: str = "torchvision") -> str:
    """Returns how many times as fast as the peer the compiled op is, or "" if either was not measured."""
    if not {"compiled", peer} <= timings.keys():
        return ""
    ratio = timings[peer]["median"] / timings["compiled"]["median"]
    return f"{ratio:.{0 if ratio >= 10 else 1}f}"


def _pair(timings: dict[str, Any]) -> str:
    """Returns our time, torchvision's and their ratio as cells, or empty ones."""
    if not {"compiled", "torchvision"} <= timings.keys():
        return " | | "
    ours, theirs = timings["compiled"]["median"], timings["torchvision"]["median"]
    return f"{duration(ours)} | {duration(theirs)} | {ratio_of(timings)}"


def times(prefixes: tuple[str, ...]) -> str:
    """Returns the measured cases whose names begin with one of `prefixes`, CPU beside GPU, with their machines."""
    cpu_reports, gpu_reports = load("cpu"), load("gpu")
    avx512, avx2 = [r for r in cpu_reports if not is_avx2(r)], [r for r in cpu_reports if is_avx2(r)]
    cpu, of_avx2, gpu = newest(avx512), newest(avx2), newest(gpu_reports)
    names = [name for prefix in prefixes for name in {**cpu, **gpu} if name.startswith(prefix)]
    names = [name for name in names if _pair(cpu.get(name, {})).strip(" |") or _pair(gpu.get(name, {})).strip(" |")]
    lines = [
        "| case | ssd_ops, CPU | torchvision, CPU | ratio | ratio, AVX2 | ssd_ops, GPU | torchvision, GPU | ratio |",
        "| --- |" + " ---: |" * 7,
        *(
            f"| {name} | {_pair(cpu.get(name, {}))} | {ratio_of(of_avx2.get(name, {}))} | {_pair(gpu.get(name, {}))} |"
            for name in names
        ),
    ]
    reports = [report for report in cpu_reports + gpu_reports if not report["cases"].keys().isdisjoint(names)]
    return "\n".join([*lines, "", *notes(reports)])


def notes(reports: list[dict[str, Any]]) -> list[str]:
    """Returns one line for each machine and commit, with the commands that ran there."""
    commands: dict[str, list[str]] = {}
    for machine in (report["machine"] for report in reports):
        where = machine.get("gpu") or f"{machine['cpu']}{_isa(machine)}, {_counted(machine['threads'], 'thread')}"
        versions = f"torch {machine['torch']}, torchvision {machine['torchvision']}"
        key = f"{where}; {versions}; commit {machine['commit']}; {machine['date']}"
        commands.setdefault(key, []).append("`" + re.sub(r" --json \S+", "", machine["command"]) + "`")
    return [f"* {key}: {', '.join(sorted(ran))}" for key, ran in sorted(commands.items())]


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"
