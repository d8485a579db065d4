"""Fixtures for the tests of the build: fake programs on PATH, fake torch packages, a clean source tree."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import processes

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "csrc" / "plan"))


@pytest.fixture
def root() -> Path:
    """The source tree."""
    return ROOT


@pytest.fixture
def program(tmp_path: Path) -> Callable[[str, str], Path]:
    """Returns `program(name, shell_code)`, which creates an executable in the folder `tmp_path / "bin"`."""

    def make(name: str, code: str) -> Path:
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\n{code}\n")
        path.chmod(0o755)
        return path

    return make


@pytest.fixture
def torch_folder(tmp_path: Path) -> Callable[..., Path]:
    """Returns a function that creates a fake torch package: its version file and a header that the build needs."""

    def make(version: str = "2.12.1+cu130", cuda: str | None = "13.0", headers: bool = True) -> Path:
        home = tmp_path / "torch"
        header = home / "include/torch/csrc/stable/library.h"
        header.parent.mkdir(parents=True, exist_ok=True)
        header.touch() if headers else header.unlink(missing_ok=True)
        (home / "version.py").write_text(f"__version__ = {version!r}\ncuda = {cuda!r}\n")
        return home

    return make


@pytest.fixture
def source_tree(tmp_path: Path) -> Path:
    """A copy of the files that a build needs, without build products."""
    tree = tmp_path / "tree"
    for name in ("csrc", "ssd_ops"):
        shutil.copytree(
            ROOT / name, tree / name, ignore=shutil.ignore_patterns("*.so", "_*.json", "_*.txt", "__pycache__")
        )
    for name in ("CMakeLists.txt", "setup.py", "pyproject.toml", "ssd_launcher.py"):
        shutil.copy(ROOT / name, tree)
    (tree / "README.md").touch()
    (tree / "ssd").mkdir()
    return tree


@pytest.fixture
def run_python() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Returns a function that runs Python in a folder, with extra environment variables and without SSD_OPS_*."""

    def run(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        command, env = [sys.executable, *arguments], _environment(folder, variables)
        return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)

    return run


@pytest.fixture
def run_torch() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Like run_python, forked from a process that has already imported torch, which saves seconds."""

    def run(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return processes.run_python(*arguments, folder=folder, environment=_environment(folder, variables))

    return run


def _environment(folder: Path, variables: dict[str, str]) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SSD_OPS_")}
    return {**kept, "PYTHONPATH": str(folder), **variables}
