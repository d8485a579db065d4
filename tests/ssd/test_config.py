"""The configuration: flags, files, and errors that come before torch is imported."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ssd.command_line import parse_args
from ssd.config import ConfigError, TrainConfig, load_config

ROOT = Path(__file__).resolve().parent.parent.parent


def test_flags_win_over_the_file_and_the_file_over_the_defaults(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    TrainConfig(epochs=7, lr=0.5, model_options={"width": 8, "levels": 3}).save(path)
    config = parse_args(["--config", str(path), "--lr", "0.25", "--model-option", "levels=4"])
    assert (config.epochs, config.lr, config.batch_size) == (7, 0.25, TrainConfig().batch_size)
    assert config.model_options == {"width": 8, "levels": 4}


def test_a_saved_configuration_comes_back_equal(tmp_path: Path) -> None:
    config = TrainConfig(lr_steps=[3, 5], model_options={"prior_sizes": [10, 20.5]}, amp=True)
    config.save(tmp_path / "config.json")
    assert TrainConfig(**load_config(tmp_path / "config.json")) == config


def test_option_values_are_json_or_text() -> None:
    config = parse_args(["--model-option", "prior-sizes=[1, 2]", "--model-option", "rule=last"])
    assert config.model_options == {"prior_sizes": [1, 2], "rule": "last"}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--dataset", "vox"], "--dataset must be one of auto, shapes, voc, coco, yolo, csv, got 'vox' (did you mean"),
        (["--model", "ssd_tinny"], "did you mean 'ssd_tiny'?"),
        (["--dataset", "voc"], "--data-path must name the folder of the data set 'voc', got none"),
        (["--data-path", "no/such/folder"], "--data-path must be a folder, got 'no/such/folder'"),
        (["--epochs", "0"], "--epochs must be at least 1, got 0"),
        (["--lr", "nan"], "--lr must be above 0, got nan"),
        (["--momentum", "1"], "--momentum must lie in [0, 1), got 1.0"),
        (["--test-only"], "--test-only needs --resume"),
        (["--weights", "nowhere.pth"], "--weights nowhere.pth: there is no such file"),
        (["--weights-backbone", "nowhere.pth"], "--weights-backbone nowhere.pth: there is no such file"),
        (["--resume", "runs/nowhere"], "--resume runs/nowhere: there is no such file"),
        (["--model-option", "width"], "--model-option must be KEY=VALUE, got 'width'"),
    ],
)
def test_mistakes_are_named(flags: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        parse_args(flags)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_unknown_keys_of_a_file_are_refused_and_the_near_one_is_suggested(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"epoch": 3}))
    with pytest.raises(ConfigError, match=r"unknown key 'epoch' \(did you mean 'epochs'\?\)"):
        load_config(path)


@pytest.mark.parametrize("how", [["ssd/train.py"], ["-m", "ssd.train"]])
@pytest.mark.parametrize(("flags", "code"), [(["--help"], 0), (["--dataset", "vox"], 2)])
def test_help_and_mistakes_do_not_import_torch(how: list[str], flags: list[str], code: int) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *how, *flags], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == code, done.stderr[-2000:]
    imported = {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert "ssd.config" in imported
    assert not imported & {"torch", "torchvision", "matplotlib"}


def test_every_model_and_preset_of_the_command_line_exists() -> None:
    import ssd
    from ssd.config import MODELS, PRESETS

    assert set(MODELS) == set(ssd.MODELS) and set(PRESETS) == set(ssd.PRESETS)
