"""Tests the length of a run in epochs or in steps, also when it is resumed, and settings that cannot train."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from ssd.common.errors import ConfigError
from ssd.engine.checkpoint import read
from ssd.engine.epochs import epochs_of
from ssd.engine.loop import run
from ssd.programs.train_arguments import parse_args
from ssd.reports.csv_log import CsvLog
from tests.ssd.test_training import SMALL

# 4 steps an epoch; the rate is divided by 10 after 6 steps.
BASE = replace(SMALL, dataset_options={"size": 16, "image_size": 64}, batch_size=4, pictures=0, eval_every=99)
BASE = replace(BASE, iterations=6, lr_scheduler="multisteplr", lr_steps=[6], warmup_iters=0)


@pytest.fixture(scope="module")
def six_steps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("run") / "six"
    run(replace(BASE, output_dir=str(path)))
    return path


@pytest.mark.parametrize("batch_size", [4, 2, 8, 16])
def test_resumed_run_has_as_many_steps_as_iterations(batch_size: int, six_steps: Path, tmp_path: Path) -> None:
    (tmp_path / "last.pt").write_bytes((six_steps / "last.pt").read_bytes())
    resumed = replace(BASE, iterations=11, batch_size=batch_size, resume=str(tmp_path / "last.pt"))
    run(replace(resumed, output_dir=str(tmp_path / "run")))
    assert read(tmp_path / "run")["step"] == 11
    rows = CsvLog(tmp_path / "run" / "train.csv").rows()
    assert [row["step"] for row in rows] == [7, 8, 9, 10, 11]  # no epoch without steps
    assert [row["lr"] for row in rows] == pytest.approx([0.1 * BASE.lr] * 5)  # the schedule counts steps, too


def test_all_steps_done_advises_iterations(six_steps: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(parse_args(["--resume", str(six_steps)]))
    assert "all 6 iterations are done; set a larger --iterations to continue" in capsys.readouterr().out
    assert "--iterations N    # train longer" in (six_steps / "summary.html").read_text()


def test_configuration_file_that_resumes_loads_the_settings_of_the_run(six_steps: Path, tmp_path: Path) -> None:
    (tmp_path / "more.yaml").write_text(f"resume: {six_steps}\niterations: 9\n")
    config = parse_args(["--config", str(tmp_path / "more.yaml")])
    assert (config.resume, config.iterations, config.batch_size) == (str(six_steps), 9, BASE.batch_size)
    assert parse_args(["--config", str(tmp_path / "more.yaml"), "--iterations", "8"]).iterations == 8


def test_run_on_shapes_with_a_recorded_folder_resumes(six_steps: Path, tmp_path: Path) -> None:
    """Earlier runs recorded a folder that they did not read; a user who gave no flag could not omit one."""
    run_folder = tmp_path / "run"
    shutil.copytree(six_steps, run_folder)
    recorded = json.loads((run_folder / "config.json").read_text())
    (run_folder / "config.json").write_text(json.dumps({**recorded, "dataset": "shapes", "data_path": str(tmp_path)}))
    config = parse_args(["--resume", str(run_folder), "--iterations", "9"])
    assert (config.dataset, config.data_path, config.batch_size) == ("shapes", None, recorded["batch_size"])


def test_epochs_count_from_the_steps_that_were_done() -> None:
    config = replace(SMALL, iterations=16)
    assert [epochs_of(config, spe, 4, 8) for spe in (1, 2, 4, 5)] == [12, 8, 6, 6]
    assert epochs_of(replace(config, iterations=7), 2, 2, 3) == 4 and epochs_of(config, 5) == 4


@pytest.mark.parametrize("flags", [["--config", "caffe_ssd300_voc0712"], ["--resume"]])
def test_epochs_without_effect_are_rejected(
    flags: list[str], six_steps: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = [*flags, str(six_steps)] if flags == ["--resume"] else [*flags, "--data-path", str(six_steps)]
    with pytest.raises(SystemExit):
        parse_args([*flags, "--epochs", "5"])
    assert "--epochs 5 would have no effect, since the configuration has --iterations" in capsys.readouterr().err
    if "--resume" in flags:
        assert parse_args([*flags, "--epochs", "5", "--iterations", "0"]).epochs == 5


@pytest.mark.parametrize(("start", "iterations"), [(2, 0), (3, 9)])
def test_start_epoch_that_trains_nothing_raises(start: int, iterations: int, tmp_path: Path) -> None:
    config = replace(BASE, epochs=2, iterations=iterations, start_epoch=start, output_dir=str(tmp_path / "run"))
    with pytest.raises(ConfigError, match=rf"--start-epoch must be below the number of epochs, {start}, got {start}"):
        run(config)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("settings", [{"preset": "tensorflow"}, {"model_options": {"scores": "sigmoid", "levels": 2}}])
def test_scores_that_cannot_be_trained_raise_before_training(settings: dict[str, object], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="training needs scores='softmax', got 'sigmoid'"):
        run(replace(BASE, **settings, output_dir=str(tmp_path / "run")))  # type: ignore[arg-type]
    assert not (tmp_path / "run").exists()
