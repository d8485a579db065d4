"""Tests run_python and run_processes: output, exit codes and sys.path are those of `python` and torchrun."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from tests.processes import run_processes, run_python


def test_run_python_returns_exit_code_and_output(tmp_path: Path) -> None:
    (tmp_path / "say.py").write_text("import sys; print(sys.argv); sys.exit(sys.argv[1])")
    done = run_python("say.py", "too bad", folder=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (1, "['say.py', 'too bad']\n", "too bad\n")
    done = run_python("-c", "1 / 0", folder=tmp_path)
    assert done.returncode == 1 and "ZeroDivisionError" in done.stderr
    assert run_python("-c", "import os; os.abort()", folder=tmp_path).returncode < 0


def test_run_python_has_the_sys_path_of_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("near", "named", "of_the_tests"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / f"{folder}_module.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path / "of_the_tests")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "named")}
    (tmp_path / "near" / "find.py").write_text("import near_module, named_module, torch, pytest")
    assert run_python("find.py", folder=tmp_path / "near", environment=environment).returncode == 0
    done = run_python("-c", "import near_module, of_the_tests_module", folder=tmp_path / "near")
    assert "No module named 'of_the_tests_module'" in done.stderr


def end_one_after_the_other() -> None:
    rank = int(os.environ["RANK"])
    time.sleep(rank)
    print("process", rank)
    sys.exit(3 + rank)


def test_run_processes_keeps_output_of_all_failures(tmp_path: Path) -> None:
    ended = run_processes(tmp_path, end_one_after_the_other)
    assert [(p.code, p.out) for p in ended] == [(3, "process 0\n"), (4, "process 1\n")]


class EndsOnArrival:
    """Ends the process that unpickles it, before its function is called."""

    def __reduce__(self) -> tuple[object, ...]:
        return os._exit, (5,)


def test_process_that_ends_before_start_has_no_output(tmp_path: Path) -> None:
    (tmp_path / "0.out").write_text("left from before")
    (ended,) = run_processes(tmp_path, print, EndsOnArrival(), size=1)
    assert (ended.code, ended.out, ended.err) == (5, "", "")
