"""Tests signals that arrive where Python drops exceptions."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path
from typing import Any

import pytest

import ssd.engine.loop as training
from ssd.config import TrainConfig
from ssd.engine.run_folder import RunFolder
from ssd.engine.signals import Interrupted, Interruption


def test_signal_whose_exception_was_dropped_ends_an_evaluation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def evaluate(*_: Any) -> float:
        with contextlib.suppress(Interrupted):  # as Python does in some callbacks, such as those of a fork
            os.kill(os.getpid(), signal.SIGTERM)
        raise RuntimeError("DataLoader worker (pid 9) is killed by signal: Terminated.")

    class State:
        epoch, step, evaluated = 2, 9, 1

        def best_model(self) -> None:
            return None

    state: Any = State()
    monkeypatch.setattr(training, "evaluate_model", evaluate)
    with Interruption().listening() as interruption, pytest.raises(Interrupted):
        nothing: Any = None
        training.evaluate_and_keep_best(TrainConfig(), state, nothing, RunFolder(tmp_path), interruption)
    assert state.evaluated == 1  # so that resuming evaluates this epoch
