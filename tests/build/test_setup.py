"""Tests setup.py on machines where the build fails, and the files that it writes."""

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


def test_wheel_without_compiler_fails_and_names_fixes(source_tree: Path, run_python: Run) -> None:
    result = run_python(source_tree, "setup.py", "bdist_wheel", PATH=str(source_tree), CXX="")
    assert result.returncode != 0 and not list(source_tree.glob("dist/*"))  # nothing that pip could cache
    assert "ssd_ops: No C++ compiler was found" in result.stderr and "apt install g++" in result.stderr
    assert "SSD_OPS_BACKEND=reference pip install" in result.stderr


def test_wheel_of_reference_needs_no_compiler(source_tree: Path, run_python: Run) -> None:
    result = run_python(
        source_tree, "setup.py", "bdist_wheel", PATH=str(source_tree), CXX="", SSD_OPS_BACKEND="reference"
    )
    assert result.returncode == 0, result.stderr
    assert [wheel.name for wheel in source_tree.glob("dist/*")] == ["ssd_ops-0.1.0-py3-none-any.whl"]


def test_isolated_build_requires_what_is_missing(source_tree: Path, run_python: Run) -> None:
    code = "import runpy; print(*runpy.run_path('setup.py', run_name='setup')['build_requirements']())"
    compiler = source_tree / "c++"
    compiler.touch(mode=0o755)
    assert "torch" not in run_python(source_tree, "-c", code, CXX=str(compiler)).stdout  # that of this Python is used
    assert run_python(source_tree, "-c", code, CXX="", PATH=str(source_tree / "empty")).stdout.split() == []
    assert run_python(source_tree, "-c", code, CXX=str(compiler), SSD_OPS_BACKEND="reference").stdout.split() == []


def test_build_problem_is_printed_without_traceback(source_tree: Path, run_python: Run) -> None:
    result = run_python(source_tree, *BUILD, CXX="no-such-compiler")
    assert result.returncode != 0 and "Traceback" not in result.stderr
    assert "\nssd_ops: CXX=no-such-compiler is set, but there is no such program." in result.stderr


@pytest.mark.skipif(not shutil.which("c++"), reason="needs a compiler")
def test_warning_fails_the_build_only_if_asked_to(source_tree: Path, run_python: Run) -> None:
    for folder in ("ops", "cpu", "cuda"):  # one small file instead
        shutil.rmtree(source_tree / "csrc" / folder)
    for name in ("csrc/ops/one.cpp", "csrc/cpu/dispatch/isa.cpp"):
        (source_tree / name).parent.mkdir(parents=True)
        (source_tree / name).touch()
    (source_tree / "csrc/ops/one.cpp").write_text("int unused_result() { int forgotten; return 0; }\n")
    result = run_python(source_tree, *BUILD, SSD_OPS_CUDA="0", SSD_OPS_WERROR="1")
    assert result.returncode != 0 and "Traceback" not in result.stderr
    assert "-Werror=unused-variable" in result.stdout and "failed with status" in result.stderr
    assert not (source_tree / "ssd_ops/_not_built.txt").exists()
    # a newer compiler with new warnings still installs
    assert run_python(source_tree, *BUILD, SSD_OPS_CUDA="0").returncode == 0


def test_parallel_jobs_follow_max_jobs(source_tree: Path, run_python: Run) -> None:
    code = "import runpy; print(runpy.run_path('setup.py', run_name='setup')['parallel_jobs']())"
    assert run_python(source_tree, "-c", code, MAX_JOBS="7").stdout.strip() == "7"
    assert 1 <= int(run_python(source_tree, "-c", code, MAX_JOBS="").stdout) <= (os.cpu_count() or 1)
