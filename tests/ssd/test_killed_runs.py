"""Tests that a run which is killed at random moments, and resumed each time, ends as if it had never been killed."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from ssd.engine.loop import run
from ssd.programs.train_arguments import parse_args
from tests.processes import run_processes
from tests.ssd.test_resuming import BASE, assert_equal_runs

KILLS = 20
# Each step is saved. A picture is drawn before the first one, and evaluations come between epochs.
LONG = replace(BASE, epochs=4, pictures=1, eval_every=1)


def run_or_resume(folder: str, seconds: float) -> None:
    """Goes on with a run as its user would, until this process is killed after some seconds."""
    timer = threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGKILL))
    timer.daemon = True
    timer.start()
    run(parse_args(["--resume", folder]) if Path(folder, "last.pt").is_file() else replace(LONG, output_dir=folder))
    timer.cancel()


@pytest.mark.slow
def test_run_killed_twenty_times_at_random_moments_equals_uninterrupted(tmp_path: Path) -> None:
    started = time.perf_counter()
    (ended,) = run_processes(tmp_path / "said", run_or_resume, str(tmp_path / "whole"), 600.0, size=1)
    assert ended.code == 0, ended
    whole, draw, kills, number = time.perf_counter() - started, random.Random(0), 0, 0
    while kills < KILLS or (tmp_path / str(number)).exists():
        folder = tmp_path / str(number)
        seconds = draw.uniform(0, whole / 2) if kills < KILLS else 600.0
        (ended,) = run_processes(tmp_path / "said", run_or_resume, str(folder), seconds, size=1)
        if ended.code == 0:
            assert_equal_runs(tmp_path / "whole", folder)
            number += 1
            continue
        assert ended.code == -signal.SIGKILL, ended
        kills += 1
        folder.mkdir(exist_ok=True)  # it may have been killed before anything was written
