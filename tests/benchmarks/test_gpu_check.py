"""Tests gpu_check.py: its stages, time limits and report, with commands that need no GPU."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks import gpu_check, readme_tables, stages
from benchmarks.stages import Stage, run_stages
from tests.emu.op_cases import CASES
from tests.processes import run_python

ROOT = Path(__file__).resolve().parent.parent.parent


def python(name: str, code: str, limit: float = 60, **more: Any) -> Stage:
    return Stage(name, [sys.executable, "-c", code], limit, **more)


def test_report_is_written_after_every_stage(tmp_path: Path) -> None:
    path = tmp_path / "out" / "report.json"
    look = f"import json; s = json.load(open({str(path)!r}))['stages']; print(s[0]['status'], s[1]['status'])"
    report = run_stages(
        [
            python("first", "print('hello')"),
            python("second", look, read=lambda text: {"details": text.strip()}),
            python("third", "raise SystemExit('planted')"),
            Stage("fourth", ["no-such-program"], 60),
        ],
        {"gpu": "none"},
        path,
        60,
    )
    assert json.loads(path.read_text()) == report
    assert [stage["status"] for stage in report["stages"]] == ["passed", "passed", "failed", "missing"]
    assert report["stages"][1]["details"]["details"] == "passed interrupted"
    assert not report["passed"]
    assert report["failures"][0].startswith("third: exit status 1") and "planted" in report["failures"][0]
    assert "no-such-program" in report["failures"][1]
    assert not list(path.parent.glob("*.partial"))


def test_stage_timeout_kills_child_processes(tmp_path: Path) -> None:
    alive = tmp_path / "alive"
    child = f"import time\nwhile True: open({str(alive)!r}, 'a').write('x'); time.sleep(0.05)"
    hang = f"import subprocess, sys\nprint('begun')\nsubprocess.run([sys.executable, '-c', {child!r}])"
    begin = time.monotonic()
    report = run_stages([python("hangs", hang, limit=2), python("next", "")], {}, tmp_path / "report.json", 60)
    assert time.monotonic() - begin < 30
    assert [stage["status"] for stage in report["stages"]] == ["timeout", "passed"]
    assert report["failures"] == ["hangs: stopped after 2 s"] and "begun" in report["stages"][0]["output_tail"]
    size = alive.stat().st_size
    time.sleep(0.3)
    assert alive.stat().st_size == size


def test_stages_are_skipped_without_time_or_build(tmp_path: Path) -> None:
    report = run_stages(
        [python("slow", ""), python("other", "")], {}, tmp_path / "report.json", stages.MIN_STAGE_SECONDS / 2
    )
    assert {stage["status"] for stage in report["stages"]} == {"not started"}
    assert report["failures"] == ["slow: no time was left", "other: no time was left"]
    steps = [python("build", "raise SystemExit(3)", essential=True), python("tests", "")]
    report = run_stages(steps, {}, tmp_path / "other.json", 60)
    assert [stage["status"] for stage in report["stages"]] == ["failed", "not started"]
    assert report["failures"][1] == "tests: build failed"


def test_killed_run_keeps_finished_stages(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    code = (
        "import sys; from pathlib import Path; from benchmarks.stages import Stage, run_stages\n"
        "steps = [Stage('quick', [sys.executable, '-c', ''], 60), Stage('long', ['sleep', '60'], 60)]\n"
        f"run_stages(steps, {{}}, Path({str(path)!r}), 120)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("long"):
            break
    process.kill()
    process.wait()
    process.stdout.close()
    assert [stage["status"] for stage in json.loads(path.read_text())["stages"]] == ["passed", "interrupted"]


def test_terminated_run_keeps_rows_of_unfinished_stage_and_ends_it(tmp_path: Path) -> None:
    path, alive, rows = tmp_path / "report.json", tmp_path / "alive", tmp_path / "rows.json"
    row = json.dumps({"machine": {}, "rows": [{"name": "first", "seconds": 1}]})
    stage = f"import time; open({str(rows)!r}, 'w').write({row!r})\nwhile True: open({str(alive)!r}, 'a').write('x'); "
    code = (
        "import sys; from pathlib import Path; from benchmarks import gpu_check; from benchmarks.stages import Stage\n"
        f"gpu_check.machine = lambda commit: {{'gpu': 'x', 'commit': 'abc'}}\n"
        f"step = Stage('steps', [sys.executable, '-c', {stage + 'time.sleep(0.05)'!r}], 60, report=Path({str(rows)!r}))\n"
        f"gpu_check.main(['--json', {str(path)!r}], lambda folder: [step])"
    )
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not (path.exists() and json.loads(path.read_text())["benchmarks"]):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.terminate()
    assert "stopped by SIGTERM" in process.communicate(timeout=30)[1] and process.returncode == 1
    report = json.loads(path.read_text())
    assert report["benchmarks"]["steps"] == {"machine": {"commit": "abc"}, "rows": [{"name": "first", "seconds": 1}]}
    assert report["stages"][0]["status"] == "interrupted" and not report["passed"]
    size = alive.stat().st_size
    time.sleep(0.3)
    assert alive.stat().st_size == size


def test_another_run_for_the_same_commit_adds_to_the_report(tmp_path: Path) -> None:
    path, rows = tmp_path / "report.json", tmp_path / "rows.json"

    def measured(value: int) -> Stage:
        report = json.dumps({"machine": {}, "rows": [value]})
        return python("ops", f"open({str(rows)!r}, 'w').write({report!r})", report=rows)

    machine = {"gpu": "x", "commit": "a"}
    run_stages([python("first", ""), measured(1)], machine, path, 60)
    report = run_stages([python("second", "raise SystemExit(1)")], machine, path, 60)
    assert {stage["name"]: stage["status"] for stage in report["stages"]} == {
        "second": "failed", "first": "passed", "ops": "passed"
    }  # fmt: skip
    assert report["benchmarks"]["ops"]["rows"] == [1] and json.loads(path.read_text()) == report
    report = run_stages([measured(2)], machine, path, 60)
    assert report["benchmarks"]["ops"]["rows"] == [2] and len(report["stages"]) == 3
    report = run_stages([measured(3)], machine, path, stages.MIN_STAGE_SECONDS / 2)  # no time: the old row stays
    assert report["benchmarks"]["ops"]["rows"] == [2]
    report = run_stages([python("third", "")], {**machine, "commit": "b"}, path, 60)
    assert [stage["name"] for stage in report["stages"]] == ["third"] and not report["benchmarks"]


def test_read_tests_parses_truncated_pytest_output() -> None:
    text = (
        "tests/a.py::test_x[cuda] PASSED [ 10%]\ntests/a.py::test_y[a b] FAILED [ 20%]\n"
        "tests/a.py::test_z SKIPPED (no) [ 30%]\n"
        "tests/a.py::test_w ERROR [ 40%]\nFAILED tests/a.py::test_y[a b] - assert 1 == 2\ntests/b.py::test_cut"
    )
    found = gpu_check.read_tests(text)
    assert found["counts"] == {"passed": 1, "failed": 2, "skipped": 1}
    assert found["failures"] == ["tests/a.py::test_y[a b]: assert 1 == 2", "tests/a.py::test_w: error"]
    assert gpu_check.read_tests("collected 0 items")["failures"]
    broken = "tests/a.py::test_x PASSED [ 10%]\nERROR tests/b.py - ImportError: no\nERROR tests/c.py\n"
    assert gpu_check.read_tests(broken)["failures"] == ["tests/b.py: not collected", "tests/c.py: not collected"]


@pytest.mark.parametrize(
    ("text", "failures"),
    [
        ("nms: ran\n========= ERROR SUMMARY: 0 errors\n", []),
        ("nms: ran\n========= RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)\n", []),
        (
            "========= Invalid __global__ write of size 4 bytes\n=========     at nms.cu:8\n"
            "========= ERROR SUMMARY: 1 error\n",
            ["Invalid __global__ write of size 4 bytes"],
        ),
        ("========= ERROR SUMMARY: 2 errors\n", ["2 errors"]),
        ("========= Error: Device not supported\n", ["no summary: Error: Device not supported"]),
    ],
)
def test_read_sanitizer_parses_summary(text: str, failures: list[str]) -> None:
    assert gpu_check.read_sanitizer(text)["failures"] == failures


def test_gpu_check_help_without_torch_and_no_gpu_error(monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        "import sys; sys.argv = ['gpu_check.py', '--help']; from benchmarks import gpu_check\n"
        "try: gpu_check.main()\nexcept SystemExit as e: assert e.code == 0 and 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "--minutes" in done.stdout, done.stderr
    answers = {"nvidia-smi": ""}
    monkeypatch.setattr(gpu_check, "output_of", lambda *command: answers.get(command[0], ""))
    with pytest.raises(SystemExit, match="needs an NVIDIA GPU that torch sees, and there is none"):
        gpu_check.main([])
    answers["nvidia-smi"] = "NVIDIA Fake 100"  # as with a torch for CPUs
    answers[sys.executable] = json.dumps({"torch": "2.11.0+cpu None", "names": []})
    with pytest.raises(SystemExit, match=r"nvidia-smi shows NVIDIA Fake 100, but not torch \(2.11.0\+cpu None\)"):
        gpu_check.main([])
    with pytest.raises(SystemExit):
        gpu_check.main(["--stages", "memchek"])


def test_gpu_check_report_fills_readme_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs fake stages and generates the README's tables from their report."""
    answers = {"nvidia-smi": "NVIDIA Fake 100, 570.1, 80000 MiB, 9.0"}
    answers[sys.executable] = json.dumps({"torch": "2.11.0 13.0", "names": ["NVIDIA Fake 100"]})
    monkeypatch.setattr(gpu_check, "output_of", lambda *command: answers.get(command[0], "abc"))
    timing = {"median": 1e-3, "low": 1e-3, "high": 1e-3}
    machine = {"gpu": "NVIDIA Fake 100", "torch": "2", "torchvision": "0", "commit": "abc", "date": "2030-01-01"}
    measured = {
        "machine": {**machine, "command": "python benchmarks/bench_nms.py"},
        "cases": {readme_tables.CASES[0]: {"compiled": timing, "torchvision": {**timing, "median": 5e-3}}},
    }

    def fakes(folder: Path) -> list[Stage]:
        write = f"open({str(folder / 'nms.json')!r}, 'w').write({json.dumps(measured)!r})"
        tests = "print('a.py::b PASSED [1%]'); print('a.py::c FAILED [2%]'); raise SystemExit(1)"
        return [
            python("tests", tests, read=gpu_check.read_tests),
            python("memcheck", "print('========= ERROR SUMMARY: 0 errors')", read=gpu_check.read_sanitizer),
            python("bench_nms", write, report=folder / "nms.json"),
        ]

    path = tmp_path / "benchmarks" / "results" / "gpu-fake.json"
    assert gpu_check.main(["--json", str(path)], fakes) == 1
    monkeypatch.setattr("benchmarks.measured.ROOT", tmp_path)
    assert "| 1 ms | 5 ms | 5.0 |" in readme_tables.table("gpu")
    checks = readme_tables.checks()
    assert "| tests | 1 passed, 1 failed | failed" in checks and "| memcheck | 0 errors | passed" in checks
    assert "a.py::c" in checks and "NVIDIA Fake 100" in checks
    assert readme_tables.table("cpu") == f"Not measured: {'; '.join(readme_tables.CASES)}."


def test_readme_lists_checks_never_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("benchmarks.measured.ROOT", tmp_path)
    assert {*readme_tables.CHECKS} <= {stage.name for stage in gpu_check.all_stages(tmp_path)}
    assert readme_tables.checks() == f"Not measured: {'; '.join(readme_tables.CHECKS)}."


def test_benchmark_stages_accept_their_arguments(tmp_path: Path) -> None:
    """Runs the command of each with --help behind it: argparse rejects what a script does not have."""
    found = [stage for stage in gpu_check.all_stages(tmp_path) if stage.report is not None]
    assert {*gpu_check.GOALS} < {stage.name for stage in found}
    for stage in found:
        assert stage.command[-1] == str(tmp_path / f"{stage.name}.json")
        assert (ROOT / stage.command[1]).is_file()
    jobs = [run_python(*stage.command[1:], "--help", folder=ROOT) for stage in found]
    assert not [done.stderr[-500:] for done in jobs if done.returncode or "--json" not in done.stdout]


def test_ops_with_unmeasured_kernels_have_calls_for_the_sanitizers(tmp_path: Path) -> None:
    (stage,) = [stage for stage in gpu_check.all_stages(tmp_path) if stage.name == "unmeasured_memcheck"]
    ops = stage.command[stage.command.index("--cuda") + 1 :]
    assert ops == ["nms", "batched_nms"] and {*ops} <= {op for op, _ in CASES}


def test_machine_without_nvidia_smi_and_git(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    answers = {sys.executable: json.dumps({"torch": "2.11.0 13.0", "names": ["NVIDIA Fake 100"]}), "git": "enclosing"}
    monkeypatch.setattr(gpu_check, "output_of", lambda *command: answers.get(command[0], ""))
    monkeypatch.setattr(gpu_check, "ROOT", tmp_path)
    found = gpu_check.machine(None)
    assert found["gpu"] == "NVIDIA Fake 100" and found["driver"] == "unknown"
    assert found["commit"] == "unknown" and found["dirty"] is False
    assert gpu_check.machine("abc")["commit"] == "abc"


def test_missing_packages_are_named_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = {sys.executable: json.dumps({"torch": "2.11.0 13.0", "names": ["NVIDIA Fake 100"]})}
    monkeypatch.setattr(gpu_check, "output_of", lambda *command: answers.get(command[0], ""))
    monkeypatch.setattr(gpu_check, "find_spec", lambda name: None if name in ("torchvision", "PIL") else name)
    path = tmp_path / "report.json"
    assert gpu_check.main(["--json", str(path)], lambda folder: [python("ops", "")]) == 0
    out = capsys.readouterr().out
    assert out.startswith(
        'warning: without torchvision, PIL, stages will fail; pip install -e ".[test]" installs all\n'
    )
    assert json.loads(path.read_text())["machine"]["missing"] == ["torchvision", "PIL"]
