"""Tests that a run which is killed at random moments, and resumed each time, ends as if it had never been killed."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
import traceback
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


def run_or_resume(folder: Path, seconds: float) -> int:
    """Continues a run as its user would, in a separate process that is killed after some seconds.

    Returns:
        Its exit code; negative: the signal that killed it.
    """
    pid = os.fork()  # this process has imported everything, and has no threads
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    try:
        threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGKILL)).start()
        is_saved = (folder / "last.pt").is_file()
        run(parse_args(["--resume", str(folder)]) if is_saved else replace(LONG, output_dir=str(folder)))
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def kill_at_random_moments(root: Path) -> None:
    started = time.perf_counter()
    assert run_or_resume(root / "whole", 600.0) == 0
    whole, draw, kills, steps = time.perf_counter() - started, random.Random(0), 0, 0
    while kills < KILLS:
        folder = root / str(steps)
        steps += 1
        while (code := run_or_resume(folder, draw.uniform(0, whole / 2) if kills < KILLS else 600.0)) != 0:
            assert code == -signal.SIGKILL
            kills += 1
        assert_equal_runs(root / "whole", folder)
    print(f"{kills} kills in {steps} runs")


@pytest.mark.slow
def test_run_killed_twenty_times_at_random_moments_equals_uninterrupted(tmp_path: Path) -> None:
    (ended,) = run_processes(tmp_path / "said", kill_at_random_moments, tmp_path, size=1)
    assert ended.code == 0, ended
    assert f"\n{KILLS} kills in " in ended.out
