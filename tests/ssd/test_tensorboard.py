"""Tests what a run writes for TensorBoard, and that it never ends a run."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ssd.common.errors import ConfigError
from ssd.common.packages import is_installed
from ssd.config import TrainConfig, check_settings
from ssd.engine.run_folder import RunFolder
from ssd.reports.tensorboard_log import TensorBoardLog

TRAIN = {"epoch": 1, "step": 4, "lr": 0.5, "loc_loss": 2.0}


class Writer:
    """A fake SummaryWriter, which fails after some calls."""

    def __init__(self, folder: str, **options: Any) -> None:
        self.calls: list[Any] = [(folder, options)]
        self.fails = False

    def add_scalar(self, *call: Any) -> None:
        if self.fails:
            raise OSError("No space left on device")
        self.calls.append(call)

    def flush(self) -> None:
        self.calls.append("flush")


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: SimpleNamespace(origin=name))
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", SimpleNamespace(SummaryWriter=Writer))


def test_rows_of_both_tables_are_scalars_at_their_steps(installed: None, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.train_log.add(TRAIN)  # not open yet, as with --test-only
    folder.tensorboard.open("auto", 3)
    folder.train_log.add(TRAIN)
    folder.eval_log.add({"epoch": 1, "step": 5, "AP50": 0.25})
    folder.tensorboard.flush()
    writer = folder.tensorboard._writer
    assert writer.calls == [
        (str(tmp_path / "tensorboard"), {"purge_step": 4, "flush_secs": 30}),
        ("train/lr", 0.5, 4),
        ("train/loc_loss", 2.0, 4),
        ("eval/AP50", 0.25, 5),
        "flush",
    ]


def test_write_error_is_printed_once(installed: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = TensorBoardLog(tmp_path)
    log.open("on", 0)
    log._writer.fails = True
    log.add("train", TRAIN)
    log.add("train", TRAIN)
    log.flush()
    said = "warning: nothing more is written for TensorBoard: OSError: No space left on device\n"
    assert capsys.readouterr().out == said


def test_installation_that_cannot_be_imported_is_reported(
    installed: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    TensorBoardLog(tmp_path).open("auto", 0)
    assert "warning: nothing more is written for TensorBoard: ModuleNotFoundError" in capsys.readouterr().out


def test_folder_of_a_run_is_no_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "events_of_a_run").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    assert importlib.util.find_spec("events_of_a_run") and not is_installed("events_of_a_run")
    assert not is_installed("missing.part")


def test_missing_package_is_named_if_it_was_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert not is_installed("tensorboard")
    with pytest.raises(ConfigError, match="--tensorboard on needs the package tensorboard: pip install tensorboard"):
        check_settings(TrainConfig(tensorboard="on"))
    check_settings(TrainConfig(tensorboard="auto"))
    log = TensorBoardLog(tmp_path / "none")
    log.open("auto", 0)
    log.add("train", TRAIN)
    assert not log.folder.exists()


def test_tensorboard_reads_the_events_and_hides_those_after_the_checkpoint(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for first, losses in ((0, [4.0, 3.0, 2.0]), (2, [1.0])):  # killed in step 3 and resumed after step 2
        log = TensorBoardLog(tmp_path)
        log.open("on", first)
        for step, loss in enumerate(losses, start=first + 1):
            log.add("train", {"epoch": 1, "step": step, "loc_loss": loss})
        log.flush()
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert [(row.step, row.value) for row in events.Scalars("train/loc_loss")] == [(1, 4.0), (2, 3.0), (3, 1.0)]
