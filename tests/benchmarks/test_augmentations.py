"""Tests the table of augmentations: flags of each run, failed runs, and means over seeds."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import augmentations
from ssd.programs.train_arguments import parse_args
from tests.ssd.small_folders import voc_object, write_voc


def test_table_has_mean_and_range_of_seeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_voc(tmp_path / "data", {"a": [voc_object()]})

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        config = parse_args(command[2:])
        assert (config.epochs, config.eval_every, config.pictures) == (10, 2, 0) and config.output_dir
        if config.data_augmentation == "ssd":
            return subprocess.CompletedProcess(command, 1, "", "out of memory")
        folder = Path(config.output_dir)
        folder.mkdir(parents=True)
        rows = "".join(f"{epoch},{epoch},{0.1 * (1 + config.seed)}\r\n" for epoch in (2, 10))
        (folder / "eval.csv").write_text("epoch,step,AP50\r\n" + rows)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(augmentations, "machine", dict)
    flags = [
        "--data-path",
        str(tmp_path / "data"),
        "--epochs",
        "10",
        "--seeds",
        "3",
        "--save",
        str(tmp_path / "a.json"),
    ]
    monkeypatch.setattr(sys, "argv", ["augmentations.py", *flags])
    augmentations.main()
    out, err = capsys.readouterr()
    out = out[out.index("| augmentation") :]  # after what the configuration prints about the data
    assert out.splitlines()[0] == "| augmentation | epoch 2 | epoch 10 |"
    assert "| flip, mild crop | 0.200 (0.100 to 0.300) | 0.200 (0.100 to 0.300) |" in out
    assert "as SSD (flip, crop, color, zoom out), seed 2 failed: out of memory" in err
    monkeypatch.setattr(sys, "argv", ["augmentations.py", "--table", str(tmp_path / "a.json")])
    augmentations.main()
    assert capsys.readouterr().out == out and len(json.loads((tmp_path / "a.json").read_text())["runs"]) == 3 * len(
        augmentations.AUGMENTATIONS
    )


def test_saved_trainings_are_not_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_voc(tmp_path / "data", {"a": [voc_object()]})
    seeds = []

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        config = parse_args(command[2:])
        seeds.append(config.seed)
        if config.seed == len(seeds) - 1 == 1:
            return subprocess.CompletedProcess(command, 1, "", "killed")
        Path(config.output_dir).mkdir(parents=True)
        (Path(config.output_dir) / "eval.csv").write_text(f"epoch,step,AP50\r\n1,1,0.{config.seed}\r\n")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(augmentations, "machine", dict)
    file = tmp_path / "a.json"
    flags = ["--data-path", str(tmp_path / "data"), "--epochs", "1", "--variants", "flip", "--save", str(file)]
    monkeypatch.setattr(sys, "argv", ["augmentations.py", *flags])
    augmentations.main()
    augmentations.main()
    assert seeds == [0, 1, 2, 1]
    runs = json.loads(file.read_text())["runs"]
    assert [run["AP50"] for run in runs] == [{"1": 0.0}, {"1": 0.1}, {"1": 0.2}]
    monkeypatch.setattr(sys, "argv", ["augmentations.py", *flags, "--flags=--image-size 64"])
    with pytest.raises(SystemExit, match="has the results of another command"):
        augmentations.main()


def test_chosen_variants_are_trained_and_judged_by_the_chosen_metric(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_voc(tmp_path / "data", {"a": [voc_object()]})
    options = []

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        config = parse_args(command[2:])
        assert (config.eval_metric, config.data_augmentation) == ("coco", "hflip")
        options.append(config.model_options)
        Path(config.output_dir).mkdir(parents=True)
        (Path(config.output_dir) / "eval.csv").write_text("epoch,step,AP50,AP,AP75\r\n1,1,0.5,0.3,0.2\r\n")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", run)
    flags = ["--data-path", str(tmp_path / "data"), "--epochs", "1", "--seeds", "1", "--metric", "coco", "--variants"]
    monkeypatch.setattr(sys, "argv", ["augmentations.py", *flags, "flip", "GIoU loss, IoU-aware scores"])
    augmentations.main()
    assert options == [{}, {"box_loss": "giou", "class_target": "iou"}]
    out = capsys.readouterr().out
    for name, value in (("AP50", "0.500"), ("AP75", "0.200"), ("AP", "0.300")):
        rows = out[out.index(f"{name}:\n\n") :].splitlines()
        assert rows[2] == "| augmentation | epoch 1 |"
        assert rows[5] == f"| GIoU loss, IoU-aware scores | {value} ({value} to {value}) |"
