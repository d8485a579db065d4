"""Tests that the commands which the programs print can be run as printed, whatever the paths and options."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

import pytest

from ssd.common import console
from ssd.config import TrainConfig
from ssd.config.option_text import option_text
from ssd.config.resume_settings import record
from ssd.data_check.before_training import check_command
from ssd.engine.distributed import World
from ssd.engine.run_folder import RunFolder
from ssd.programs import data, eval
from ssd.programs.train_arguments import key_value, parse_args
from ssd.reports.summary import write_summary
from tests.ssd.small_folders import voc_object, write_voc

CODE = "tests.ssd.test_data_custom:make"  # only named, never imported


@pytest.fixture(autouse=True)
def started_as_ssd(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/usr/bin/ssd"])


def arguments_of(command: str, *program: str) -> list[str]:
    words = shlex.split(command, comments=True)
    assert tuple(words[: len(program)]) == program
    return words[len(program) :]


def run_of(folder: Path, **settings: Any) -> Path:
    folder.mkdir()
    record(TrainConfig(**settings), folder)
    (folder / "last.pt").touch()
    return folder


def test_check_command_reads_the_data_as_training_did(tmp_path: Path) -> None:
    folder = write_voc(tmp_path / "it's my data", {"one": [voc_object()]})
    (folder / "data.yaml").write_text("names: [cat]\n")
    options = {"classes": ["cat", "a b"], "allow_outside": True, "apply_exif": False}
    hiding = {"on_error": "raise", "empty": "drop"}
    config = TrainConfig(dataset="yolo", data_path=str(folder), dataset_options={**options, **hiding})
    args, checked = data.parse_args(arguments_of(check_command(config), "ssd", "data"))
    assert args.command == "check" and args.data_path == str(folder)
    assert (checked.dataset, checked.dataset_options) == ("yolo", options)


@pytest.mark.parametrize("value", ["text", "1", "true", "null", "", 'a "b"', 1, 0.5, True, None, ["a", 1], {"a": 1}])
def test_option_text_is_read_as_the_same_value(value: Any) -> None:
    assert key_value("dataset_options", f"key={option_text(value)}") == ("key", value)


@pytest.mark.parametrize("dataset", ["shapes", CODE])
def test_next_steps_of_the_summary(dataset: str, tmp_path: Path) -> None:
    run = run_of(tmp_path / "my run", dataset=dataset, patience=3)
    page = write_summary(run).read_text().replace("&#x27;", "'")
    lines = [line for line in page.splitlines() if line.startswith(("ssd ", "<pre>ssd "))]
    assert len(lines) == 4
    args, config = eval.parse_args(arguments_of(lines[1], "ssd", "eval"))
    assert args.save == str(run / "evaluation") and config.dataset == dataset
    config = parse_args(arguments_of(lines[2].replace(" N ", " 30 "), "ssd", "train"))
    assert (config.resume, config.epochs, config.patience, config.dataset) == (str(run), 30, 0, dataset)


def test_resume_command_has_the_processes_of_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_of(tmp_path / "my run", dataset=CODE)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    folder = RunFolder(run)
    folder.runs_code = True
    command = folder.describe_resume().partition("resume with: ")[2]
    assert parse_args(arguments_of(command, "ssd", "train")).resume == str(run)
    folder = RunFolder(run, World(0, 2))
    command = folder.describe_resume().partition("resume with: ")[2]
    assert arguments_of(command, "torchrun", "--nproc_per_node=2", "-m", "ssd", "train") == ["--resume", str(run)]
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")
    assert "the same torchrun command on each machine and --resume '" in folder.describe_resume()


def test_training_is_named_by_the_file_that_was_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = Path(console.__file__).parents[1]
    (tmp_path / "a b").symlink_to(package)
    (tmp_path / "train.py").touch()
    monkeypatch.chdir(tmp_path)
    for started, named in (
        (package / "train.py", f"python {package / 'train.py'}"),
        (Path("a b/train.py"), "python 'a b/train.py'"),
        (Path("train.py"), "python -m ssd train"),  # of another program
    ):
        monkeypatch.setattr(sys, "argv", [str(started)])
        assert console.how_to_run("train") == named
        assert console.how_to_run("predict") == "python -m ssd predict"
    assert console.how_to_run("train", 4) == "torchrun --nproc_per_node=4 -m ssd train"
    monkeypatch.setattr(sys, "argv", [str(package / "train.py")])
    assert console.how_to_run("train", 4) == f"torchrun --nproc_per_node=4 {package / 'train.py'}"
