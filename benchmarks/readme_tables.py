"""Generates the tables of results in README.md and docs/results.md from the JSON files in benchmarks/results.

python benchmarks/readme_tables.py [--check]

Each table is between two markers, `<!-- results: cpu -->` (or gpu, checks, data, install, serve, detector cpu, detector
gpu, headline) and `<!-- end -->`. Cases without a measurement are listed below the table.
`gpu_check.py` writes one file for a whole GPU.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from benchmarks.measured import files, is_avx2, load, newest, notes, ratio_of, times  # noqa: E402
from benchmarks.memory import shown as memory_shown  # noqa: E402
from benchmarks.table import duration  # noqa: E402

CASES = (
    "nms, 8 boxes, uniform",
    "nms, 1000 boxes, uniform",
    "nms, 20000 boxes, uniform",
    "nms, 100000 boxes, uniform",
    "nms, 1000 boxes, 50 objects",
    "nms, 20000 boxes, 50 objects",
    "nms, 100000 boxes, 50 objects",
    "batched_nms, 10000 boxes, 90 classes",
    "box_iou 100 x 8732, fresh output",
    "box_iou 1000 x 8732, fresh output",
    "box_iou 1000 x 8732, out=",
    "match_priors, batch 32, 8 objects an image",
    "match_priors, batch 32, 100 objects an image",
    "encode_boxes 32 x 8732",
    "decode_boxes 32 x 8732",
    "multibox_loss forward + backward, 32 x 8732 x 91",
    "detect, trained-like, 32 x 8732 x 91",
    "detect, worst, 32 x 8732 x 91",
)
HEADLINE = (
    "nms, 1000 boxes, uniform",
    "box_iou 1000 x 8732, out=",
    "match_priors, batch 32, 8 objects an image",
    "encode_boxes 32 x 8732",
    "multibox_loss forward + backward, 32 x 8732 x 91",
    "detect, trained-like, 32 x 8732 x 91",
)
PAGES = ("README.md", "docs/results.md")
_INPUT = ("ssd", "torchvision", "torchvision on PIL")  # columns of the input pipeline


def table(kind: str) -> str:
    """Returns one table as Markdown, followed by machines and commands.

    The table of the CPU has the times of AVX-512, and a column with the ratios of machines that have AVX2 only.
    """
    reports = [report for report in load(kind) if not report["cases"].keys().isdisjoint(CASES)]
    cases = newest([report for report in reports if kind == "gpu" or not is_avx2(report)])
    avx2 = newest([report for report in reports if kind == "cpu" and is_avx2(report)])
    lines = [f"| op, case | ssd_ops | torchvision | ratio |{' ratio, AVX2 |' if avx2 else ''} peak memory |"]
    lines.append("| --- |" + " ---: |" * (5 if avx2 else 4))
    missing: list[str] = []
    for name in CASES:
        timings = cases.get(name, {})
        # where torchvision would take minutes, the fastest other library is the peer
        peer_name = next((key for key in ("torchvision", "powerboxes") if key in timings), "")
        ours, peer = timings.get("compiled"), timings.get(peer_name)
        if ours is None or peer is None:
            missing.append(name)
        else:
            ratios = ratio_of(timings, peer_name) + (f" | {ratio_of(avx2.get(name, {}), peer_name)}" if avx2 else "")
            theirs = duration(peer["median"]) + (f" ({peer_name})" if peer_name != "torchvision" else "")
            lines.append(f"| {name} | {duration(ours['median'])} | {theirs} | {ratios} | {_memory(ours, peer)} |")
    return "\n".join([*(lines if len(missing) < len(CASES) else []), *_sentence(missing), "", *notes(reports)]).strip()


def _sentence(missing: list[str]) -> list[str]:
    """Returns the lines that list the cases without a measurement."""
    return ["", f"Not measured: {'; '.join(missing)}."] if missing else []


def data() -> str:
    """Returns the table of the input pipeline in images per second, from the newest report that has it."""
    lines = [
        "| one core, images a second | ssd | torchvision | torchvision on PIL | ratio |",
        "| --- |" + " ---: |" * 4,
    ]
    reports = [report for report in load("cpu") if any("ssd" in timings for timings in report["cases"].values())]
    for name, timings in reports[-1]["cases"].items() if reports else ():
        rates = [timings.get(key, {}).get("note", "").partition(" ")[0] for key in _INPUT]
        ratio = timings["torchvision"]["median"] / timings["ssd"]["median"]
        lines.append(f"| {name} | {' | '.join(rates)} | {ratio:.1f} |")
    return "\n".join([*lines, "", *notes(reports[-1:])]).rstrip()


def detector(kind: str) -> str:
    """Returns the table of whole detectors: one column for each measured variant; of CPUs, those with AVX-512.

    Parts of a detector are shown for its largest batch only; the result files have all of them.
    """
    whole = ("inference, ", "training step, ")
    reports = [report for report in load(kind) if any(name.startswith(whole) for name in report["cases"])]
    reports = [report for report in reports if kind == "gpu" or not is_avx2(report)]
    if not reports:
        return "Not measured."
    cases = newest(reports)
    names = [name.partition(", ")[2] for timings in cases.values() for name in timings if ", " in name]
    variants = [*dict.fromkeys(names)]
    lines = [
        f"| ssd / torchvision | {' | '.join(['as they are', 'ratio', *variants])} |",
        "| --- |" + " ---: |" * (2 + len(variants)),
    ]
    for name, timings in cases.items():
        part, model, batch = name.split(", ")
        larger = [other for other in cases if other.startswith(f"{part}, {model}, ") and _batch(other) > _batch(name)]
        if larger and part not in ("inference", "training step"):
            continue
        ratio = timings["torchvision"]["median"] / timings["compiled"]["median"]
        cells = [_both(timings, ""), f"{ratio:.0f}" if ratio >= 10 else f"{ratio:.2f}"]
        cells += [_both(timings, f", {variant}") for variant in variants]
        lines.append(f"| {part}, {model.partition('_')[0]}, {batch} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", *notes(reports)]).rstrip()


def _batch(name: str) -> int:
    return int(name.rpartition(" ")[2])


def _both(timings: dict[str, Any], variant: str) -> str:
    """Returns our time, and torchvision's if it was measured, else our ratio to torchvision's detector as it is."""
    found = [timings[who + variant]["median"] for who in ("compiled", "torchvision") if who + variant in timings]
    alone = len(found) == 1 and "torchvision" in timings
    return " / ".join(map(duration, found)) + (f" ({timings['torchvision']['median'] / found[0]:.2f})" if alone else "")


def installed() -> str:
    """Returns the table of other libraries before and after `ssd_ops.install`, from the newest report that has it."""
    lines = ["| call | before | installed | ratio |", "| --- |" + " ---: |" * 3]
    reports = [report for report in load("cpu") if any("installed" in timings for timings in report["cases"].values())]
    for name, timings in reports[-1]["cases"].items() if reports else ():
        before, after = timings["before"]["median"], timings["installed"]["median"]
        lines.append(f"| {name} | {duration(before)} | {duration(after)} | {before / after:.1f} |")
    return "\n".join([*lines, "", *notes(reports[-1:])]).rstrip()


def served() -> str:
    """Returns the table of `ssd serve` under load, in batches and image by image."""
    reports = [r for kind in ("cpu", "gpu") for r in load(kind) if any(n.startswith("serve, ") for n in r["cases"])]
    if not reports:
        return "Not measured."
    lines = [
        "| model, clients | requests/s | latency: median, 90 %, 99 % | images a batch | requests/s, batch 1 | ratio |",
        "| --- |" + " ---: |" * 5,
    ]
    for report in reports:
        for name, timings in report["cases"].items():
            many, single = timings["batches"], timings["batch 1"]
            latency = ", ".join(duration(many[key]) for key in ("median", "percentile_90", "percentile_99"))
            mean = many["samples"] / sum(count / int(size) for size, count in many["batches"].items())
            where = "GPU" if "gpu" in report["machine"] else "CPU"
            rates = (many["requests_per_second"], single["requests_per_second"])
            cells = (f"{rates[0]:.0f}", latency, f"{mean:.1f}", f"{rates[1]:.0f}", f"{rates[0] / rates[1]:.1f}")
            lines.append(f"| {where}: {name.removeprefix('serve, ')} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", *notes(reports)]).rstrip()


CHECKS = ("build", "tests", "memcheck", "racecheck", "synccheck", "initcheck", "properties")


def checks() -> str:
    """Returns the table of the newest gpu_check.py report, followed by the machine."""
    reports = sorted((f for f in files() if "stages" in f), key=lambda f: f["machine"]["date"])
    lines = ["| on a GPU | found | |", "| --- | --- | --- |"]
    stages = {stage["name"]: stage for stage in reports[-1]["stages"]} if reports else {}
    missing: list[str] = []
    for name in CHECKS:
        stage = stages.get(name)
        if stage is None or stage["status"] == "not started":
            missing.append(name)
            continue
        counts = stage["details"].get("counts", {}) if name in ("tests", "properties") else {}
        found = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
        found = found or stage["details"].get("summary") or f"{stage['seconds']:.0f} s"
        failed = "; ".join(stage["failures"][:3]).replace("|", "\\|")
        lines.append(f"| {name} | {found} | {stage['status']}{': ' if failed else ''}{failed} |")
    lines = [*(lines if len(missing) < len(CHECKS) else []), *_sentence(missing)]
    if reports:
        machine = reports[-1]["machine"]
        versions = f"{machine['gpu']}; driver {machine['driver']}; torch {machine['torch']}; commit {machine['commit']}"
        lines += ["", f"{versions}; {machine['date']}; `{machine['command']}`"]
    return "\n".join(lines).strip()


def _memory(ours: dict[str, Any], peer: dict[str, Any]) -> str:
    """Returns both peaks, or "" if they were not measured."""
    peaks = (ours.get("peak_memory"), peer.get("peak_memory"))
    return " / ".join(memory_shown(peak) for peak in peaks) if None not in peaks else ""


def main() -> None:
    """Rewrites README.md; with --check, fails if it is not up to date."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="change nothing; fail if a table is not up to date")
    check = parser.parse_args().check
    made = {"cpu": lambda: table("cpu"), "gpu": lambda: table("gpu"), "checks": checks, "data": data}
    made |= {"install": installed, "serve": served}
    made |= {f"detector {kind}": lambda kind=kind: detector(kind) for kind in ("cpu", "gpu")}
    made["headline"] = lambda: times(HEADLINE)
    texts = {page: (ROOT / page).read_text(encoding="utf-8") for page in PAGES}
    old = dict(texts)
    for kind, make in made.items():
        begin, end = f"<!-- results: {kind} -->", "<!-- end -->"
        pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), flags=re.DOTALL)
        page = next((page for page, text in texts.items() if pattern.search(text)), None)
        if page is None:
            raise SystemExit(f"{' and '.join(PAGES)} have no table between {begin} and {end}")
        replacement = f"{begin}\n{make()}\n{end}"
        texts[page] = pattern.sub(lambda _, value=replacement: value, texts[page])
    if check and texts != old:
        raise SystemExit("tables of results are not up to date: run python benchmarks/readme_tables.py")
    if not check:
        for page, text in texts.items():
            (ROOT / page).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
