"""Tests that benchmarks run, check results before timing, and write complete reports. Times are not asserted."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from benchmarks import readme_tables
from benchmarks.harness import Case, run_case
from tests.processes import run_python

ROOT = Path(__file__).resolve().parent.parent.parent
OTHERS = ("bench_ops_gpu", "bench_serve", "bench_shards")  # with other reports
SCRIPTS = sorted(s for s in (ROOT / "benchmarks").glob("bench_*.py") if s.stem not in OTHERS)


def quick_run(script: Path, report: Path) -> subprocess.CompletedProcess[str]:
    """Runs a benchmark with small cases."""
    options = ["--quick", "--device", "cpu", "--threads", "1", "--json", str(report)]
    if script.stem == "bench_detector":
        options += ["--filter", "post-process"]  # networks take seconds
    return run_python(str(script), *options, folder=report.parent)


@pytest.fixture(scope="module")
def quick_runs(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> dict[Path, tuple[subprocess.CompletedProcess[str], Path]]:
    """Runs the selected scripts, two at a time; returns the process and the report of each."""
    asked = [item.callspec.params.get("script") for item in request.session.items if hasattr(item, "callspec")]
    scripts = [script for script in SCRIPTS if script in asked]
    folder = tmp_path_factory.mktemp("reports")
    reports = [folder / f"{script.stem}.json" for script in scripts]
    with ThreadPoolExecutor(max_workers=2) as pool:
        ended = list(pool.map(quick_run, scripts, reports))
    return dict(zip(scripts, zip(ended, reports, strict=True), strict=True))


@pytest.mark.parametrize(
    "script",
    [pytest.param(s, id=s.stem, marks=[] if s.stem == "bench_nms" else pytest.mark.slow) for s in SCRIPTS],
)
def test_quick_run_writes_report(
    script: Path, quick_runs: dict[Path, tuple[subprocess.CompletedProcess[str], Path]]
) -> None:
    done, path = quick_runs[script]
    assert done.returncode == 0, done.stderr[-2000:]
    report = json.loads(path.read_text())
    assert report["copy_bandwidth"] > 0
    assert {"cpu", "threads", "torch", "torchvision", "commit", "command"} <= set(report["machine"])
    assert report["cases"]
    for timings in report["cases"].values():
        own = {"bench_data": {"ssd"}, "bench_detector": {"compiled"}, "bench_install": {"before", "installed"}}
        ours = own.get(script.stem, {"compiled", "reference"})
        # torchvision has not every op, and the last compares each library with itself
        peer = set() if script.stem in ("bench_overhead", "bench_install") else {"torchvision"}
        assert ours | peer <= set(timings)
        assert all(0 < t["low"] <= t["median"] <= t["high"] for t in timings.values())
        assert "torchvision" not in timings or timings["torchvision"]["ratio"] == 1
        assert all(t["peak_memory"] is None or t["peak_memory"] >= 0 for t in timings.values())


@pytest.fixture
def gpu_rows(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module with the rows of the GPU table, imported like in a script."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("benchmarks.gpu_rows")


def test_gpu_table_rows_run_on_cpu(gpu_rows: ModuleType) -> None:
    rows = list(gpu_rows.rows(quick=True))
    for row in rows:
        inputs = row.make(torch.Generator().manual_seed(3))
        row.check(row.call(*inputs), row.call(*inputs))
    names = [row.name for row in gpu_rows.rows(quick=False)]
    assert len(rows) >= 10 and len(names) == len(set(names))


@pytest.mark.cuda
def test_gpu_benchmark_reports_all_rows(gpu_rows: ModuleType, tmp_path: Path) -> None:
    if not torch.cuda.is_available():
        pytest.skip("there is no GPU")
    path = tmp_path / "report.json"
    done = run_python(str(ROOT / "benchmarks" / "bench_ops_gpu.py"), "--quick", "--json", str(path), folder=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = json.loads(path.read_text())["rows"]
    assert len(rows) == len(list(gpu_rows.rows(quick=True)))
    assert all(row["eager"] > 0 and (row["cold"] or row["name"].startswith("nms")) for row in rows)


def test_wrong_results_are_not_timed() -> None:
    calls = []

    def wrong(x: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return x + 1

    def check(result: torch.Tensor, expected: torch.Tensor) -> None:
        assert torch.equal(result, expected), "off by one"

    case = Case("x", lambda g, d: (torch.zeros(3),), {"reference": lambda x: x, "wrong": wrong}, check, input_sets=2)
    with pytest.raises(SystemExit, match="x: wrong differs from reference, nothing is timed: off by one"):
        run_case(case, torch.device("cpu"), 0.01, 1e9)
    assert len(calls) == 1


def test_readme_tables_match_results() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "readme_tables.py"), "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_readme_table_lists_cases_without_results(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readme_tables, "load", lambda kind: [])
    assert readme_tables.table("gpu").startswith("Not measured: nms, 8 boxes, uniform; ")


def test_cpu_table_has_times_of_avx512_and_the_ratio_of_avx2(monkeypatch: pytest.MonkeyPatch) -> None:
    def report(isa: str, seconds: float) -> dict[str, Any]:
        machine = dict.fromkeys(("cpu", "torch", "torchvision", "commit", "date", "command"), "x") | {"threads": 2}
        times = {"compiled": {"median": seconds}, "torchvision": {"median": 1.0}}
        return {
            "machine": {**machine, "ssd_ops": {"compiled": {"isa_chosen": isa}}},
            "cases": {"encode_boxes 32 x 8732": times},
        }

    monkeypatch.setattr(readme_tables, "load", lambda kind: [report("avx512", 0.5), report("avx2", 0.25)])
    rows = readme_tables.table("cpu").splitlines()
    assert rows[0] == "| op, case | ssd_ops | torchvision | ratio | ratio, AVX2 | peak memory |"
    assert rows[2].startswith("| encode_boxes 32 x 8732 | 500 ms | 1 s | 2.0 | 4.0 |")
    assert "* x (AVX2), 2 threads" in "\n".join(rows)


def test_detector_table_has_column_per_variant(monkeypatch: pytest.MonkeyPatch) -> None:
    times = {
        "compiled": 0.05,
        "torchvision": 0.1,
        "compiled, amp": 0.03,
        "torchvision, amp": 0.2,
        "compiled, graph": 0.02,
    }
    names = [f"{part}, ssd300_vgg16, batch {batch}" for part in ("inference", "heads") for batch in (4, 32)]
    cases = {name: {key: {"median": seconds} for key, seconds in times.items()} for name in names}
    cases[names[0]] = {key: {"median": 1.0} for key in ("compiled", "torchvision", "compiled, compile+amp")}
    machine = dict.fromkeys(("cpu", "torch", "torchvision", "commit", "date", "command"), "x") | {"threads": 2}
    monkeypatch.setattr(readme_tables, "load", lambda kind: [{"machine": machine, "cases": cases}])
    rows = readme_tables.detector("cpu").splitlines()
    assert rows[0] == "| ssd / torchvision | as they are | ratio | compile+amp | amp | graph |"
    assert rows[2] == "| inference, ssd300, batch 4 | 1 s / 1 s | 1.00 | 1 s (1.00) |  |  |"
    assert rows[3] == "| inference, ssd300, batch 32 | 50 ms / 100 ms | 2.00 |  | 30 ms / 200 ms | 20 ms (5.00) |"
    assert rows[4].startswith("| heads, ssd300, batch 32 |") and rows[5] == "", "parts of the largest batch only"
    monkeypatch.setattr(readme_tables, "load", lambda kind: [])
    assert readme_tables.detector("gpu") == "Not measured."


@pytest.mark.parametrize("native", [False, True])
def test_names_of_engines_say_their_dtype(native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    bench = importlib.import_module("benchmarks.bench_detector")
    monkeypatch.setattr(bench, "has_native_bfloat16", lambda device: native)
    case = bench._inference("ssdlite320_mobilenet_v3_large", 1, torch.device("cpu"), ())
    engines = ["compiled, engine float32", "compiled, engine bfloat16"][: 1 + native]
    assert [*case.candidates] == ["compiled", "torchvision", *engines]


@pytest.mark.slow
def test_scaling_writes_json_and_svg(tmp_path: Path) -> None:
    command = [str(ROOT / "benchmarks" / "scaling.py"), "--quick", "--threads", "1", "--results", str(tmp_path)]
    done = run_python(*command, folder=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    for op in ("nms", "match", "detect"):
        report = json.loads((tmp_path / f"scaling-{op}.json").read_text())
        assert [len(report["points"][name]) for name in ("ssd_ops", "torchvision")] == [2, 2]
        assert all(point["seconds"] > 0 for point in report["points"]["ssd_ops"])
        assert "torchvision" in (tmp_path / f"scaling-{op}.svg").read_text()


def test_scaling_predicts_next_call_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    from benchmarks import scaling

    points = [scaling.Point(100, 0.1, None), scaling.Point(1000, 10.0, None)]
    assert scaling.next_seconds(points, 10_000) == pytest.approx(1000)
    assert scaling.next_seconds(points[:1], 10_000) == 0
