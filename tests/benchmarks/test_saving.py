"""Tests that programs of benchmarks save their rows as they measure them, and that a failing part costs no other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import harness, machine
from benchmarks.saving import saving
from tests.processes import run_python

ROOT = Path(__file__).resolve().parent.parent.parent


def test_rows_are_saved_at_once_and_failures_cost_no_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, rows = tmp_path / "new" / "report.json", list[int]()
    with pytest.raises(SystemExit, match=r"^2 not measured: second: MemoryError: planted; third differs$"):
        with saving(path, {"rows": rows}) as measuring:
            assert json.loads(path.read_text()) == {"rows": []}, "a path without permission fails early"
            with measuring("first"):
                rows.append(1)
            assert json.loads(path.read_text()) == {"rows": [1]}
            with measuring("second"):
                rows.append(2)
                raise MemoryError("planted\nmore")
            assert json.loads(path.read_text()) == {"rows": [1, 2]}
            with measuring("third"):
                raise SystemExit("third differs")
            with measuring("fourth"):
                rows.append(4)
    assert json.loads(path.read_text()) == {"rows": [1, 2, 4]}
    assert "MemoryError: planted" in capsys.readouterr().err


def test_a_wrong_case_does_not_cost_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "copy_bandwidth", lambda device: 1.0)

    def check(result: Any, expected: Any) -> None:
        assert result == expected, "other numbers"

    def case(name: str, value: int) -> harness.Case:
        return harness.Case(name, lambda g, d: (1,), {"reference": lambda x: x, "compiled": lambda x: value}, check)

    path = tmp_path / "report.json"
    arguments = harness.command_line("").parse_args(["--quick", "--device", "cpu", "--json", str(path)])
    with pytest.raises(SystemExit, match=r"1 not measured: a: compiled differs from reference.*other numbers"):
        harness.run("", arguments, [case("a", 2), case("b", 1)])
    assert list(json.loads(path.read_text())["cases"]) == ["b"]


@pytest.mark.parametrize(
    ("script", "options", "names"),
    [
        ("host_times", [], {"name", "no_grad"}),
        ("step_times", ["--filter", "ssd_tiny", "--steps", "1"], {"name", "cuda_graph", "seconds", "host_seconds"}),
        (
            "start_times",
            ["--runs", "1", "--flags", "--model ssd_tiny"],
            {"first_batch", "first_step", "host", "imports"},
        ),
    ],
)
def test_script_writes_rows(tmp_path: Path, script: str, options: list[str], names: set[str]) -> None:
    path = tmp_path / "report.json"
    command = [str(ROOT / "benchmarks" / f"{script}.py"), "--device", "cpu", "--json", str(path), *options]
    done = run_python(*command, folder=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    report = json.loads(path.read_text())
    assert {"torch", "commit", "command"} <= set(report["machine"])
    assert report["rows"] and all(names <= set(row) for row in report["rows"])


def test_inference_times_writes_rows(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    options = ["--models", "ssdlite320_mobilenet_v3_large", "--batches", "1", "--ways", "fused", "--no-lists"]
    command = [str(ROOT / "benchmarks" / "inference_times.py"), *options, "--device", "cpu", "--seconds", "0"]
    done = run_python(*command, "--json", str(path), folder=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    name = "ssdlite320_mobilenet_v3_large B1"
    assert [row["name"] for row in json.loads(path.read_text())["rows"]] == [
        f"{name} {x} fused" for x in ("predict", "batches")
    ]


def test_start_times_names_the_error_of_a_run(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    command = [str(ROOT / "benchmarks" / "start_times.py"), "--runs", "1", "--json", str(path)]
    done = run_python(*command, "--data-path", str(tmp_path / "none"), folder=tmp_path)
    assert done.returncode == 1 and "1 not measured: run 1: RuntimeError: exit status" in done.stderr
    assert "none" in done.stderr and json.loads(path.read_text())["rows"] == []


def test_commit_of_an_export_in_another_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "output_of", lambda *command: "enclosing")
    monkeypatch.setattr(machine, "_ROOT", tmp_path)
    assert machine._git("rev-parse", "HEAD") == ""
    (tmp_path / ".git").mkdir()
    assert machine._git("rev-parse", "HEAD") == "enclosing"
