"""Probes of the machine, and the errors that stop a build."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path


class BuildProblem(Exception):
    """An obstacle to the build: one paragraph with the cause and a fix."""


class NoCompiler(BuildProblem):
    """There is no C++ compiler: an editable install has no kernels and runs on the reference."""


def version_pair(text: str) -> tuple[int, int]:
    """Returns (major, minor) of a version such as "2.15.0a0+git1234" or "13.2"."""
    major, minor = re.findall(r"\d+", text)[:2]
    return int(major), int(minor)


def command_words(cxx: str) -> list[str]:
    """Returns the programs of a compiler command: "ccache g++ -m64" gives ["ccache", "g++"]."""
    return [word for word in shlex.split(cxx) if not word.startswith("-")]


def host_compiler(cxx: str) -> str:
    """Returns the compiler without a launcher, as nvcc -ccbin needs it."""
    return os.environ.get("CUDAHOSTCXX") or command_words(cxx)[-1]


def compile_probe(command: Sequence[str], source: str, suffix: str) -> str:
    """Compiles a few lines; returns the first error lines of the compiler, "" on success."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"probe{suffix}"
        path.write_text(source)
        result = subprocess.run([*command, str(path), "-o", str(path) + ".o"], capture_output=True, text=True)
    lines = [line.strip() for line in (result.stderr + result.stdout).splitlines() if line.strip()]
    return "" if result.returncode == 0 else " | ".join(lines[:3]) or f"exit status {result.returncode}"


def run_text(*command: str, folder: str | None = None) -> str:
    """Returns the output of a program that runs in `folder`, "" if it is missing or fails."""
    try:
        return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True, timeout=60).stdout
    except (OSError, subprocess.SubprocessError):
        return ""
