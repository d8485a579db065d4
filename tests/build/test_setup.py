"""Tests setup.py on machines where the build fails, and the files that it leaves."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., subprocess.CompletedProcess[str]]
BUILD = ("setup.py", "build_ext", "--inplace")


def test_setup_without_compiler_installs_and_writes_reason(source_tree: Path, run_python: Run) -> None:
    (source_tree / "ssd_ops/libssd_ops.so").touch()  # of an earlier build; it must be removed
    result = run_python(source_tree, *BUILD, PATH=str(source_tree), CXX="")
    assert result.returncode == 0, result.stderr
    assert "No C++ compiler was found" in (source_tree / "ssd_ops/_not_built.txt").read_text()
    assert not (source_tree / "ssd_ops/libssd_ops.so").exists()


def test_setup_without_compiler_fails_if_library_required(source_tree: Path, run_python: Run) -> None:
    result = run_python(source_tree, *BUILD, PATH=str(source_tree), CXX="", SSD_OPS_REQUIRE="1")
    assert result.returncode != 0 and "ssd_ops: No C++ compiler was found" in result.stderr


def test_build_problem_is_printed_without_traceback(source_tree: Path, run_python: Run) -> None:
    result = run_python(source_tree, *BUILD, CXX="no-such-compiler")
    assert result.returncode != 0 and "Traceback" not in result.stderr
    assert "\nssd_ops: CXX=no-such-compiler is set, but there is no such program." in result.stderr


@pytest.mark.skipif(not shutil.which("c++"), reason="needs a compiler")
def test_compile_error_fails_setup(source_tree: Path, run_python: Run) -> None:
    (source_tree / "csrc/module.cpp").write_text("int unused_result() { int forgotten; return 0; }\n")
    for folder in ("ops", "cpu", "cuda"):  # the module alone compiles in a second
        shutil.rmtree(source_tree / "csrc" / folder)
    (source_tree / "csrc/ops").mkdir()
    (source_tree / "csrc/ops/empty.cpp").touch()
    (source_tree / "csrc/cpu/dispatch").mkdir(parents=True)
    for name in ("isa.cpp", "isa.h"):
        (source_tree / "csrc/cpu/dispatch" / name).touch()
    result = run_python(source_tree, *BUILD, SSD_OPS_CUDA="0")
    assert result.returncode != 0
    assert "-Werror=unused-variable" in result.stdout, "a warning in our own sources must be an error"
    assert "SSD_OPS_WERROR=0" in result.stderr
    assert not (source_tree / "ssd_ops/_not_built.txt").exists()
    assert run_python(source_tree, *BUILD, SSD_OPS_CUDA="0", SSD_OPS_WERROR="0").returncode == 0


def test_parallel_jobs_follow_max_jobs(source_tree: Path, run_python: Run) -> None:
    code = "import runpy; print(runpy.run_path('setup.py', run_name='setup')['parallel_jobs']())"
    assert run_python(source_tree, "-c", code, MAX_JOBS="7").stdout.strip() == "7"
    assert 1 <= int(run_python(source_tree, "-c", code, MAX_JOBS="").stdout) <= (os.cpu_count() or 1)
