"""The data check at the start of training: what it finds, how it ends, and its lines."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssd.common.errors import ConfigError
from ssd.config import TrainConfig
from ssd.data import DetectionDataset, open_dataset
from ssd.data_check import before_training
from ssd.data_check.before_training import check_before_training, check_fast
from ssd.engine.setup import open_datasets
from tests.ssd.small_folders import save_image, voc_object, write_voc

NAMES = "abcdefgh"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight training images, one unreadable, and two evaluation images, one of them a training image."""
    root = tmp_path_factory.mktemp("voc")
    write_voc(root, {name: [voc_object(), voc_object()] for name in NAMES})
    write_voc(root, {name: [voc_object()] for name in ("y", "z")}, "val")
    (root / "JPEGImages" / "a.jpg").write_bytes(b"no image")
    shutil.copy(root / "JPEGImages" / "h.jpg", root / "JPEGImages" / "z.jpg")
    return root


def splits(folder: Path) -> list[DetectionDataset]:
    return [open_dataset("voc", folder, split) for split in ("train", "val")]


def lines_of(folder: Path, form: str) -> list[str]:
    return check_before_training(TrainConfig(dataset="voc", data_path=str(folder), data_check=form), *splits(folder))


@pytest.mark.parametrize("form", ["fast", "full"])
def test_check_before_training_counts_faults_and_names_first_ones(folder: Path, form: str) -> None:
    head, *lines = lines_of(folder, form)
    assert head.startswith("warning: data check: all 10 images in ")
    assert "2 problems, 8 warnings" in head and f"data check {folder}" in head
    assert [line for line in lines if not line.startswith("    ")] == [
        "  problem: image unreadable (1)",
        "  problem: image in two splits (1)",
        "  warning: object annotated twice (8)",
    ]
    assert "    ... and 6 more" in lines and sum("cat at x 10 .. 30" in line for line in lines) == 2


def test_refused_training_names_the_wrong_unit(tmp_path: Path) -> None:
    (tmp_path / "data.yaml").write_text("path: .\ntrain: images\nval: images\nnames: [cat]\n")
    save_image(tmp_path / "images" / "a.jpg", (60, 40))
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "a.txt").write_text("0 30 20 10 10\n" * 20)
    with pytest.raises(ConfigError, match=r"has an object to learn from.*: pixels instead of fractions"):
        open_datasets(TrainConfig(dataset="yolo", data_path=str(tmp_path)))


def test_check_that_finds_nothing_new_says_so(tmp_path: Path) -> None:
    write_voc(tmp_path, {"a": [voc_object(), voc_object(box=(9, 9, 9, 9))]})
    config = TrainConfig(dataset="voc", data_path=str(tmp_path))
    (line,) = check_before_training(config, *[open_dataset("voc", tmp_path)] * 2)
    assert line.endswith(", nothing else found")


def test_fast_check_stops_after_its_time(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train_set, val_set = splits(folder)
    report = check_fast({"train": train_set, "val": val_set}, "data", seconds=0)
    assert sum(map(len, report.images.values())) == 1
    monkeypatch.setattr(before_training, "check_fast", lambda *sets: check_fast(*sets, seconds=0))
    config = TrainConfig(dataset="voc", data_path=str(folder))
    assert "1 of 10 images" in check_before_training(config, train_set, val_set)[0]


def test_check_accepts_evaluation_on_training_images(folder: Path) -> None:
    (train_set, _), config = splits(folder), TrainConfig(dataset="voc", data_path=str(folder))
    assert not any("duplicate" in line for line in check_before_training(config, train_set, train_set))


def test_data_check_off_reads_nothing(folder: Path) -> None:
    assert lines_of(folder, "off") == []


def test_nearly_black_images_are_named(tmp_path: Path) -> None:
    write_voc(tmp_path, {"a": [voc_object()], "b": [voc_object()]})
    (tmp_path / "JPEGImages" / "b.jpg").unlink()
    values = np.random.default_rng(0).integers(0, 4096, (40, 60)).astype(np.uint16)  # 12 of 16 bits
    Image.fromarray(values).save(tmp_path / "JPEGImages" / "b.png")
    head, kind, line = check_before_training(
        TrainConfig(dataset="voc", data_path=str(tmp_path)), *[open_dataset("voc", tmp_path)] * 2
    )
    assert "0 problems, 1 warning" in head and kind == "  warning: image nearly black (1)"
    assert "b.png: image nearly black (its brightest part has the gray level " in line
