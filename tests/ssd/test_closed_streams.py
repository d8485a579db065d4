"""Tests programs whose standard streams are closed, as those of a daemon are, and that a finished run is not locked."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from ssd.engine.loop import run
from tests.ssd.test_training import SMALL

ROOT = Path(__file__).parents[2]
# Reports the numbers of a new file and of what the program writes to its standard streams.
PROGRAM = """
import os, sys
from ssd.common.console import console_program

@console_program
def main():
    file = open(sys.argv[1], "wb")
    print("printed"), print("error", file=sys.stderr), sys.stdin.read()
    os.write(2, b"from a library")
    file.write(str(file.fileno()).encode())

main()
"""


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_program_runs_with_closed_streams(closed: str, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    command = f'"{sys.executable}" "{tmp_path}/program.py" "{tmp_path}/file" {closed}'
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(["sh", "-c", command], env=environment, stdin=subprocess.DEVNULL, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert int((tmp_path / "file").read_bytes()) > 2
    assert (b"printed" in done.stdout) == (">&-" not in closed.replace("2>&-", ""))


def test_finished_run_is_not_locked_while_its_folder_object_exists(tmp_path: Path) -> None:
    folder = run(replace(SMALL, iterations=1, pictures=0, output_dir=str(tmp_path)))
    code = f"from pathlib import Path; from ssd.engine.folder_lock import lock_folder; lock_folder(Path({str(tmp_path)!r}))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
    assert not folder.failures
