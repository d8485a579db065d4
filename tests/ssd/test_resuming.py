"""Tests resuming: settings that are restored, settings that may change, and equality with an uninterrupted run."""

from __future__ import annotations

import json
import os
import signal
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import ssd.engine.loop as training
from ssd.common.errors import ConfigError
from ssd.config import TrainConfig
from ssd.config.resume_settings import record
from ssd.engine.checkpoint import collect, get_rng_state, read, restore
from ssd.engine.distributed import World
from ssd.engine.loop import run
from ssd.engine.preparation import prepare
from ssd.engine.run_folder import RunFolder
from ssd.engine.signals import Interrupted
from ssd.engine.step import make_state
from ssd.models import build_model
from ssd.programs.train_arguments import parse_args
from ssd.reports.csv_log import CsvLog
from tests.processes import run_processes
from tests.ssd.test_training import SMALL

BASE = replace(SMALL, dataset="shapes", batch_size=4, pictures=0, save_minutes=1e-9)  # 6 steps an epoch, each saved


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Sums depend on the number of threads, and the processes of run_processes have one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("run") / "whole"
    run(replace(BASE, output_dir=str(path)))
    return path


def contents(value: Any) -> Any:
    """Returns a checkpoint with tensors as lists, for comparisons."""
    if isinstance(value, torch.Tensor):
        return value.tolist()
    if isinstance(value, dict):
        return {key: contents(item) for key, item in value.items()}
    return [contents(item) for item in value] if isinstance(value, (list, tuple)) else value


def assert_equal_runs(one: Path, two: Path) -> None:
    left, right = (contents(torch.load(path / "last.pt", weights_only=True)) for path in (one, two))
    for part in left:
        assert left[part] == right[part], part
    assert (one / "eval.csv").read_text() == (two / "eval.csv").read_text()
    rows = [[(row["step"], row["lr"]) for row in CsvLog(path / "train.csv").rows()] for path in (one, two)]
    assert rows[0] == rows[1]


def stop_at(where: str, signum: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sends this process a signal in step 8 of 12, in the first evaluation, or before a checkpoint is renamed."""
    original = {"step": training.train_step, "evaluation": training.evaluate_model, "save": Path.replace}[where]

    def stopping(*args: Any) -> Any:
        reached = {"step": lambda: args[1].step == 7, "save": lambda: Path(args[1]).name == "best.pt"}
        if reached.get(where, lambda: True)():
            os.kill(os.getpid(), signum)
        return original(*args)

    names = {"step": "train_step", "evaluation": "evaluate_model"}
    monkeypatch.setattr(*((Path, "replace") if where == "save" else (training, names[where])), stopping)


@pytest.mark.parametrize(
    ("where", "signum"), [("step", signal.SIGTERM), ("step", signal.SIGINT), ("evaluation", signal.SIGTERM)]
)
def test_signal_saves_checkpoint_and_resuming_is_bit_equal(
    where: str, signum: int, whole: Path, tmp_path: Path
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        stop_at(where, signum, patch)
        with pytest.raises(
            Interrupted, match=r"saved .*last\.pt; resume with: python ssd/train\.py --resume "
        ) as stopped:
            run(replace(BASE, output_dir=str(tmp_path)))
    assert stopped.value.code == 128 + signum
    assert read(tmp_path)["step"] == (8 if where == "step" else 6)
    run(parse_args(["--resume", str(tmp_path)]))
    assert_equal_runs(whole, tmp_path)


def test_recorded_rates_are_those_of_the_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rates, step = [], training.train_step

    def recording(config: Any, state: Any, batch: Any) -> Any:
        rates.append(float(state.optimizer.param_groups[0]["lr"]))
        return step(config, state, batch)

    monkeypatch.setattr(training, "train_step", recording)
    run(replace(BASE, epochs=1, print_freq=1, lr_scheduler="cosineannealinglr", output_dir=str(tmp_path)))
    recorded = [row["lr"] for row in CsvLog(tmp_path / "train.csv").rows()]
    assert recorded == pytest.approx(rates, rel=1e-5) and len(rates) == 6 and recorded[-1] > 0


def run_until_killed(where: str, folder: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        stop_at(where, signal.SIGKILL, patch)
        run(replace(BASE, output_dir=folder))


# test_killed_runs kills at random moments
@pytest.mark.parametrize("where", [*(pytest.param(w, marks=pytest.mark.slow) for w in ("step", "evaluation")), "save"])
def test_kill_keeps_saved_checkpoint(where: str, whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    (ended,) = run_processes(tmp_path, run_until_killed, where, str(folder), size=1)
    assert ended.code == -signal.SIGKILL
    with (folder / "train.csv").open("a") as file:
        file.write("9,9,9,9,9,9\r\n9,9")  # a lost step and a truncated row
    run(parse_args(["--resume", str(folder)]))
    assert_equal_runs(whole, folder)


def stop_one_of_two(folder: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        if os.environ["RANK"] == "1":
            stop_at("step", signal.SIGTERM, patch)
        config = replace(BASE, output_dir=folder, batch_size=2, save_minutes=0.0)
        with pytest.raises(Interrupted) as stopped:
            run(config)
        assert stopped.value.code == 143


def resume_two(folder: str) -> None:
    run(replace(BASE, resume=folder, batch_size=2, save_minutes=0.0))


@pytest.mark.slow
def test_signal_to_one_process_stops_both_after_same_step(tmp_path: Path) -> None:
    folder, never = str(tmp_path / "run"), str(tmp_path / "whole")
    assert [p.code for p in run_processes(tmp_path / "a", stop_one_of_two, folder)] == [0, 0]
    assert read(folder)["step"] == 9  # signaled in step 8, all processes agree in step 9
    assert [p.code for p in run_processes(tmp_path / "b", resume_two, folder)] == [0, 0]
    config = replace(BASE, output_dir=never, batch_size=2, save_minutes=0.0)
    assert [p.code for p in run_processes(tmp_path / "c", run, config)] == [0, 0]
    one, two = (contents(torch.load(Path(path) / "last.pt", weights_only=True)) for path in (folder, never))
    assert one == {**two, "random": one["random"]} and one["random"][0]["torch"] == two["random"][0]["torch"]


def test_resume_restores_settings_and_data_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data/Annotations").mkdir(parents=True)
    (tmp_path / "data/JPEGImages").mkdir()
    (tmp_path / "run").mkdir()
    monkeypatch.chdir(tmp_path)
    given = ["--data-path", "data", "--model", "ssd_tiny", "--epochs", "7", "--lr", "0.004", "--output-dir", "run"]
    config = parse_args([*given, "--weights-backbone", "VGG16_Weights.IMAGENET1K_FEATURES"])
    record(config, tmp_path / "run")
    monkeypatch.chdir("/")
    resumed = parse_args(["--resume", str(tmp_path / "run"), "--test-only"])
    own = {"data_path": str(tmp_path / "data"), "output_dir": None, "resume": str(tmp_path / "run"), "test_only": True}
    assert resumed == replace(config, **own)
    assert parse_args(["--config", str(tmp_path / "run")]) == replace(resumed, resume=None, test_only=False)


def test_damaged_last_checkpoint_is_skipped_for_best(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "best.pt").write_bytes((whole / "last.pt").read_bytes())
    assert read(tmp_path)["step"] == 12
    assert f"last.pt does not exist; resuming from {tmp_path / 'best.pt'}" in capsys.readouterr().out
    (tmp_path / "last.pt").write_bytes((whole / "last.pt").read_bytes()[:-1000])
    assert read(tmp_path)["step"] == 12
    said = capsys.readouterr().out
    assert said.startswith(f"warning: {tmp_path / 'last.pt'} cannot be read")
    assert said.endswith(f"; resuming from {tmp_path / 'best.pt'}\n")
    (tmp_path / "best.pt").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"last.pt cannot be read"):
        read(tmp_path)


def test_resume_alone_takes_the_run_saved_last(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, seconds in (("a", 3), ("b", 9), ("c", 5)):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "config.json").write_bytes((whole / "config.json").read_bytes())
        with zipfile.ZipFile(tmp_path / "runs" / name / "last.pt", "w") as file:
            file.writestr("data", "")
        os.utime(tmp_path / "runs" / name / "last.pt", (seconds, seconds))
    assert parse_args(["--resume", "--epochs", "7"]).resume == "runs/b"
    assert capsys.readouterr().out == "--resume runs: the run saved last is runs/b\n"
    (tmp_path / "runs/b/last.pt").write_bytes(b"PK cut off")
    os.utime(tmp_path / "runs/b/last.pt", (9, 9))
    assert parse_args(["--resume"]).resume == "runs/c"
    passed, found = capsys.readouterr().out.splitlines()
    assert passed.startswith("warning: --resume runs: runs/b is passed over") and found.endswith(" is runs/c")
    assert parse_args(["--resume", "runs/a"]).resume == "runs/a"
    with pytest.raises(SystemExit):
        parse_args(["--resume", "nowhere"])
    assert "--resume nowhere: no such file" in capsys.readouterr().err
    (tmp_path / "runs/a/config.json").unlink()
    with pytest.raises(SystemExit):
        parse_args(["--resume", "runs/a"])
    assert "runs/a/config.json does not exist, which records the settings of the run" in capsys.readouterr().err


def test_changed_settings_are_applied_printed_and_recorded(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--lr", "0.001", "--weight-decay", "0", "-b", "8", "--epochs", "3", "--output-dir", str(tmp_path)]
    config = parse_args(["--resume", str(whole), *given])
    folder = RunFolder.open(config)
    state, loader, _ = prepare(config, World(), folder)
    said = capsys.readouterr().out
    assert "--batch-size 4 -> 8, --lr 0.002 -> 0.001, --weight-decay 0.02 -> 0.0" in said
    assert [group["weight_decay"] for group in state.optimizer.param_groups] == [0.0]  # one group where there were two
    assert all(group["initial_lr"] == 0.001 for group in state.optimizer.param_groups)
    assert len(state.optimizer.state) == len(list(state.model.parameters()))
    assert state.schedule.last_epoch == 2 * len(loader) == 6  # half as many steps an epoch as before
    assert json.loads((tmp_path / "config.json").read_text())["lr"] == 0.001


@pytest.mark.parametrize(("flags", "kept"), [(["--eval-metric", "coco"], False), (["--eval-metric", "voc"], True)])
def test_best_checkpoint_is_selected_anew_with_another_metric(
    flags: list[str], kept: bool, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = parse_args(["--resume", str(whole), *flags, "--epochs", "3", "--output-dir", str(tmp_path)])
    state, _, _ = prepare(config, World(), RunFolder.open(config))
    assert (state.best >= 0) == kept
    assert ("best.pt is selected anew" in capsys.readouterr().out) != kept


def test_settings_before_a_change_are_kept(tmp_path: Path) -> None:
    for lr, kept in ((0.1, None), (0.1, None), (0.2, "config.1.json"), (0.3, "config.2.json")):
        path = record(TrainConfig(lr=lr), tmp_path)
        assert (path and path.name) == kept
    assert json.loads((tmp_path / "config.2.json").read_text())["lr"] == 0.2


@pytest.mark.parametrize(
    "flags",
    [
        ["--opt", "sgd"],
        ["--model", "ssd300_vgg16"],
        ["--model-option", "width=8"],
        ["--preset", "caffe"],
        ["--val-share", "0.5"],
    ],
)
def test_resume_rejects_fixed_settings(flags: list[str], whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_args(["--resume", str(whole), *flags])
    error = capsys.readouterr().err.splitlines()[-1]
    assert f"{flags[0]} " in error and "cannot be changed by --resume" in error
    assert ("--weights" in error) == (flags[0] != "--val-share")


def test_optimizer_state_is_matched_by_weight_name() -> None:
    model = build_model("ssd_tiny", 3, image_size=64, width=4, levels=2)
    first = make_state(TrainConfig(norm_weight_decay=0.0), model, 4)
    for i, parameter in enumerate(model.parameters()):
        parameter.grad = torch.full_like(parameter, i)
    first.optimizer.step()
    saved = collect(first, [get_rng_state()])
    second = make_state(TrainConfig(norm_weight_decay=None, bias_weight_decay=None), model, 4)
    restore(saved, "run", second)
    for i, parameter in enumerate(model.parameters()):
        assert second.optimizer.state[parameter]["exp_avg"].flatten()[0] == pytest.approx(0.1 * i)


def test_resume_maps_reordered_classes_and_rejects_others() -> None:
    model = build_model("ssd_tiny", 3, image_size=64, width=4, levels=2)
    state = make_state(TrainConfig(), model, 4)
    state.classes = ("car", "dog")
    saved, before = collect(state, [get_rng_state()]), model.forward_raw(torch.ones(1, 3, 64, 64))[1]
    state.classes = ("dog", "car")
    restore(saved, "run", state)
    after = model.forward_raw(torch.ones(1, 3, 64, 64))[1]
    torch.testing.assert_close(after[..., 1], before[..., 2])
    state.classes = ("dog", "cat")
    with pytest.raises(ConfigError, match=r"it has the classes car, dog, the data dog, cat"):
        restore(saved, "run", state)
