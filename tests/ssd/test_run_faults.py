"""Tests system errors and errors after training: one line with file and fix, and no loss of results."""

from __future__ import annotations

import errno
import io
import os
import random
import sys
import threading
from collections import namedtuple
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import ssd.engine.loop as training
from ssd.common.atomic_write import WriteError, check_writable, write_atomically, write_text
from ssd.common.console import CLOSED_PIPE, console_program
from ssd.common.errors import ConfigError
from ssd.data import build_loader
from ssd.data.formats.shapes import ShapesDataset
from ssd.data.loading.shared_memory import fitting_workers
from ssd.diagnosis.machine import examine
from ssd.engine.checkpoint import read
from ssd.engine.error_messages import as_user_error
from ssd.engine.folder_lock import lock_folder
from ssd.engine.loop import run
from ssd.engine.run_folder import RunFolder
from ssd.reports.csv_log import CsvLog
from ssd.train import main
from tests.processes import run_python
from tests.ssd.test_training import SMALL

ROOT = Path(__file__).resolve().parents[2]

ONE = replace(SMALL, dataset="shapes", pictures=0, epochs=1)


def test_full_disk_error_keeps_previous_checkpoint(tmp_path: Path) -> None:
    file = tmp_path / "last.pt"
    write_text(file, "before")

    def fill(part: Any) -> None:
        part.write(b"some")
        try:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            part.error = error
            raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos") from error

    said = r"cannot write .*last.pt: No space left on device \(3.0 MB needed, .* MB free in .*; the previous last.pt is"
    with pytest.raises(WriteError, match=said):
        write_atomically(file, fill, 3_000_000)
    assert file.read_text() == "before" and [p.name for p in tmp_path.iterdir()] == ["last.pt"]


def test_read_only_folder_is_named_without_free_space_and_before_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def deny(*_: Any) -> int:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    with monkeypatch.context() as patch:
        patch.setattr("os.open", deny)
        with pytest.raises(WriteError, match=r"^cannot write .*eval.json: Read-only file system$"):
            write_text(tmp_path / "eval.json", "{}")
    monkeypatch.setattr("os.access", lambda *_: False)  # of a file system that is mounted read-only, also for root
    with pytest.raises(ConfigError, match=r"^--save .*a/b cannot be written \(.* is read-only\); use another folder$"):
        check_writable("--save", tmp_path / "a" / "b", is_folder=True)
    with pytest.raises(ConfigError, match=r"^--json .*a/b.json: there is no folder .*a$"):
        check_writable("--json", tmp_path / "a" / "b.json")


def test_folder_of_a_running_training_is_locked(tmp_path: Path) -> None:
    code = f"from pathlib import Path; from ssd.engine.folder_lock import lock_folder; lock_folder(Path({str(tmp_path)!r}))"
    lock = lock_folder(tmp_path)
    assert lock is not None
    done = run_python("-c", code, folder=ROOT)
    assert done.returncode == 1 and f"another process is training in {tmp_path}" in done.stderr
    lock.close()
    assert run_python("-c", code, folder=ROOT).returncode == 0


def test_leftover_partial_file_is_replaced_and_links_not_followed(tmp_path: Path) -> None:
    (tmp_path / "other").write_text("mine")
    (tmp_path / "a.csv.part").symlink_to(tmp_path / "other")
    write_text(tmp_path / "a.csv", "new")
    assert (tmp_path / "a.csv").read_text() == "new" and (tmp_path / "other").read_text() == "mine"
    with pytest.raises(WriteError, match=r"cannot write .*none/a: No such file or directory"):
        write_text(tmp_path / "none/a", "new")


def test_checkpoint_is_saved_before_evaluation_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "run"

    def failing(*_: Any) -> float:
        assert (folder / "last.pt").is_file()
        raise KeyError("category_id")

    monkeypatch.setattr(training, "evaluate_model", failing)
    flags = "--dataset-option size=16 --dataset-option image_size=64 --image-size 64 --model-option width=4 -j 0 -b 8"
    with pytest.raises(SystemExit, match="training finished, but evaluation, evaluation failed"):
        main([*flags.split(), "--epochs", "2", "--eval-every", "1", "--device", "cpu", "--output-dir", str(folder)])
    assert read(folder)["epoch"] == 2 and not (folder / "best.pt").exists()
    assert "in failing" in (folder / "failed-evaluation.txt").read_text()
    assert "training continues: KeyError: 'category_id'" in (folder / "log.txt").read_text()


@pytest.mark.parametrize("fails", ["plot_losses", "plot_precision_recall"])
def test_plot_error_keeps_metrics_and_best_checkpoint(
    fails: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: Any) -> None:
        raise ValueError("ParseSyntaxException")

    monkeypatch.setattr(f"ssd.engine.evaluation.{fails}", failing)
    folder = run(replace(ONE, output_dir=str(tmp_path)))
    assert len(folder.failures) == 1 and (tmp_path / "best.pt").is_file()
    assert len(CsvLog(tmp_path / "eval.csv").rows()) == 1


def test_training_does_not_wait_for_plots(tmp_path: Path) -> None:
    folder, drawing, drawn = RunFolder(tmp_path), threading.Event(), []

    def plot() -> None:
        drawing.wait(10)
        drawn.append(1)

    folder.plot_later("slow.png", plot)
    assert not drawn
    drawing.set()
    folder.wait_for_plots()
    assert drawn and not folder.failures


def test_test_only_leaves_training_results(tmp_path: Path) -> None:
    run(replace(ONE, output_dir=str(tmp_path)))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    folder = run(replace(ONE, resume=str(tmp_path), test_only=True))
    assert folder.path == tmp_path / "test-val" and (folder.path / "eval.json").is_file()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before


def test_empty_evaluation_is_reported_and_best_is_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        "ssd.engine.preparation.nothing_to_evaluate", lambda *_: "AP is undefined and no best.pt is saved"
    )
    monkeypatch.setattr(training, "evaluate_model", lambda *_: float("nan"))
    run(replace(ONE, output_dir=str(tmp_path)))
    assert "AP is undefined" in capsys.readouterr().out.partition("epochs 1 to 1")[0]
    assert (tmp_path / "last.pt").is_file() and not (tmp_path / "best.pt").exists()


def test_non_finite_weights_are_not_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = training.train_step

    def spoil(config: Any, state: Any, batch: Any) -> Any:
        losses = steps(config, state, batch)
        next(state.model.parameters()).data.fill_(float("inf"))
        return {name: torch.zeros(()) for name in losses}

    monkeypatch.setattr(training, "train_step", spoil)
    with pytest.raises(training.TrainingError, match=r"not finite after step 3\. No checkpoint was saved before"):
        run(replace(ONE, output_dir=str(tmp_path)))
    assert not (tmp_path / "last.pt").exists()


def test_log_file_has_one_line_per_epoch(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run(replace(ONE, output_dir=str(tmp_path)))
    out, err = capfd.readouterr()
    assert "epoch 1/1: loc loss " in out and "images/s, lr " in out and "\r" not in out + err
    assert "epoch 1/1: loc loss " in (tmp_path / "log.txt").read_text()


@pytest.mark.parametrize("damage", [b"\xff\xfe", b"\0\0\0", b'"a', b"3,x"])
def test_damaged_rows_of_a_table_are_dropped(tmp_path: Path, damage: bytes) -> None:
    log = CsvLog(tmp_path / "train.csv")
    log.path.write_bytes(b"step,loss\r\n1,0.5\r\n" + damage + b"\r\n2,0.25\r\n5,0.1\r\n")
    log.drop(lambda row: row["step"] > 2)
    log.add({"step": 3, "loss": 0.125})
    assert log.path.read_bytes() == b"step,loss\r\n1,0.5\r\n2,0.25\r\n3,0.125\r\n"


def test_table_with_damaged_header_is_renamed(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    log = CsvLog(tmp_path / "train.csv")
    log.path.write_bytes(b"st\xffep,loss\r\n1,0.5\r\n")
    log.drop(lambda row: row["step"] > 2)
    log.add({"step": 3, "loss": 0.125})
    assert log.path.read_bytes() == b"step,loss\r\n3,0.125\r\n"
    assert (tmp_path / "train.csv.damaged").read_bytes().startswith(b"st\xff")
    assert "has no column 'step'; renamed to train.csv.damaged" in capsys.readouterr().out


def test_output_folder_with_other_files_raises_before_writing(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"contains other files \(notes.txt\); use a new or empty folder"):
        run(replace(ONE, output_dir=str(tmp_path)))
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]
    (tmp_path / "config.json").touch()
    with pytest.raises(ConfigError, match="or delete this one of an unfinished run"):
        run(replace(ONE, output_dir=str(tmp_path)))
    with pytest.raises(ConfigError, match=r"--output-dir must be a folder, got the file .*notes.txt"):
        run(replace(ONE, output_dir=str(tmp_path / "notes.txt")))
    with pytest.raises(ConfigError, match=r"must be below folders, but .*notes.txt is a file; name another"):
        run(replace(ONE, output_dir=str(tmp_path / "notes.txt/a/b")))


@pytest.mark.parametrize(("free", "expected"), [(1000, 4), (64, 2), (30, 1), (10, 0)])
def test_num_workers_is_limited_by_shared_memory(
    free: int, expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")(0, 0, free * 10**6)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    workers, said = fitting_workers(4, 8_640_000, tmp_path)
    assert workers == expected
    assert (said is None) if expected == 4 else ("--workers" in said and "--shm-size" in said)


def test_no_workers_without_writable_shared_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda *_: False)  # of a file system that is mounted read-only, also for root
    workers, said = fitting_workers(4, 1000, tmp_path)
    assert workers == 0 and f"({tmp_path}) is missing or cannot be written to" in str(said)
    assert any("cannot be written to" in finding.text for finding in examine(tmp_path).findings)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), "out of memory"),
        (
            MemoryError("Caught MemoryError in DataLoader worker process 0.\nTrace\nMemoryError"),
            "out of memory",
        ),
        (ConnectionResetError(104, "Connection reset by peer"), "a data loading worker exited"),
        (EOFError(), "a data loading worker exited"),
        (RuntimeError("DataLoader worker (pid 3) exited unexpectedly"), "use fewer --workers"),
        (RuntimeError("unable to allocate shared memory(shm) for file"), "--shm-size"),
        (RuntimeError("DataLoader timed out after 600 seconds"), "--workers 0 shows where"),
        (PermissionError(13, "Permission denied", "/data/a"), "Permission denied: '/data/a'"),
    ],
)
def test_system_error_is_one_line(error: Exception, said: str) -> None:
    message = str(as_user_error(error))
    assert said in message and "\n" not in message
    assert as_user_error(RuntimeError("a bug of the program")) is None


def test_console_encoding_replaces_unknown_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    console_program(lambda: print("\u7ec6\u80de"))()
    assert raw.getvalue() == b"??\n"


def test_closed_pipe_ends_program_quietly(monkeypatch: pytest.MonkeyPatch) -> None:
    def main() -> None:
        raise BrokenPipeError

    monkeypatch.setattr("ssd.common.console._discard_output", lambda: None)
    with pytest.raises(SystemExit) as ended:
        console_program(main)()
    assert ended.value.code == CLOSED_PIPE


def test_epoch_resumes_at_batch_with_same_random_numbers() -> None:
    def drawing(image: Any, target: Any) -> Any:
        number = random.random() + np.random.rand() + float(torch.rand(()))
        return image, {**target, "boxes": torch.full_like(target["boxes"], number)}

    def batches(start: int, workers: int) -> list[Any]:
        random.seed()  # the streams of the process itself do not matter
        loader = build_loader(ShapesDataset(size=10), drawing, 3, train=True, workers=workers, seed=5)
        loader.set_epoch(2, start)
        found = [(batch.image_ids, batch.gt_boxes.tolist()) for batch in loader]
        assert loader.position == len(loader) == 3
        return found

    assert batches(1, 0) == batches(0, 1)[1:]
    assert batches(3, 0) == []


def test_loader_timeout_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    from ssd.data.loading import workers

    waiting = object.__new__(workers._WatchedIterator)
    waiting._shutdown = True  # nothing to end
    monkeypatch.setattr(workers._MultiProcessingDataLoaderIter, "_try_get_data", lambda _: (False, None))
    assert waiting._try_get_data() == (False, None)
    waiting.waiting_since -= workers.TIMEOUT + 1
    with pytest.raises(RuntimeError, match="DataLoader timed out"):
        waiting._try_get_data()
