"""Tests what an evaluation in a run prints, writes and plots: counts, class names, thresholds."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ssd.common.class_names import column_titles, display_name
from ssd.config import TrainConfig
from ssd.data import DetectionDataset, open_dataset
from ssd.engine.evaluation import report
from ssd.engine.loop import run
from ssd.engine.run_folder import RunFolder
from ssd.evaluate import Evaluator
from ssd.inference.detector import load
from ssd.inference.drawing import color_of, draw_boxes
from tests.ssd.small_folders import voc_object, write_voc

NAMES = ("$\\frac$", "_hidden", "US$ 5$", "step", "AP50", "细胞", "two\nlines", "long " * 1000)


def evaluate(dataset: DetectionDataset, images: Sequence[int], folder: Path, metric: str = "voc", **changes) -> float:
    """Evaluates detections that are the ground truth of some images."""
    evaluator = Evaluator.of(dataset, metric)
    for index in images:
        target = dataset.target(index)
        found = {
            "boxes": target["boxes"],
            "labels": target["labels"],
            "scores": torch.full((len(target["labels"]),), 0.7),
        }
        evaluator.update([{**found, **changes}], [target])
    return report(evaluator, dataset, TrainConfig(pictures=2), RunFolder(folder), 1, 10)


def test_ap_over_fewer_images_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_voc(tmp_path / "voc", {name: [voc_object()] for name in "abcd"}, "val")
    dataset = open_dataset("voc", tmp_path / "voc", "val")
    assert evaluate(dataset, [0, 2], tmp_path / "run") == 1
    assert "AP of 2 of 4 images (2 skipped, see above)" in capsys.readouterr().out
    assert json.loads((tmp_path / "run" / "eval.json").read_text())["images_skipped"] == 2
    nan = torch.full((1, 4), math.nan)
    assert evaluate(dataset, range(4), tmp_path / "nan", boxes=nan) == 0
    said = capsys.readouterr().out
    assert "4 detections have boxes with NaN or inf and count as wrong" in said and "skipped, see above" not in said


@pytest.mark.parametrize("metric", ["voc", "coco"])
def test_ap_without_objects_is_nan(metric: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_voc(tmp_path / "voc", {"a": []}, "val")
    dataset = open_dataset("voc", tmp_path / "voc", "val", classes=["dog"])
    assert math.isnan(evaluate(dataset, [0], tmp_path / "run", metric))
    assert "n/a" in capsys.readouterr().out
    assert json.loads((tmp_path / "run" / "eval.json").read_text())["mean_ap"] is None


def test_class_names_with_special_characters(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dataset = open_dataset("shapes", None, "val", size=2)
    dataset.classes = NAMES
    target = {
        "boxes": torch.tensor([[0.0, 0, 9, 9]] * 8),
        "labels": torch.arange(1, 9),
        "ignore": torch.zeros(8, dtype=bool),
    }
    dataset.target = lambda index: {**target, "image_id": index}  # type: ignore[method-assign]
    folder = RunFolder(tmp_path)
    folder.train_log.add({"step": 1, "loc_loss": math.nan, "cls_loss": 3.0})
    evaluate(dataset, [0, 1], tmp_path)
    assert max(map(len, capsys.readouterr().out.splitlines())) < 200
    with (tmp_path / "eval.csv").open(newline="", encoding="utf-8") as file:
        (row,) = csv.DictReader(file)
    assert row["step"] == "10" and row["step (2)"] == "1" and row["AP50 (2)"] == "1" and row["two\\nlines"] == "1"
    for name in ("pr.png", "loss.png", "detections.png"):
        with Image.open(tmp_path / name) as drawing:
            drawing.load()


def test_checkpoint_keeps_orientation_and_score_thresholds(tmp_path: Path) -> None:
    root = write_voc(tmp_path / "voc", {name: [voc_object()] for name in "abcd"}, "train")  # annotated as stored
    (root / "ImageSets/Main/val.txt").write_text("a\nb\n")
    exif = Image.Exif()
    exif[0x0112] = 6
    for file in (root / "JPEGImages").iterdir():
        with Image.open(file) as image:
            image.save(file, exif=exif)
    small = {
        "model": "ssd_tiny",
        "image_size": 64,
        "model_options": {"width": 4, "levels": 2},
        "pictures": 0,
        "workers": 0,
    }
    tiny = {"epochs": 1, "batch_size": 4, "warmup_iters": 0, "device": "cpu", "data_augmentation": "none"}
    data = {"dataset": "voc", "data_path": str(root)}
    run(TrainConfig(**small, **tiny, **data, output_dir=str(tmp_path / "run")))
    detector = load(tmp_path / "run")
    assert detector.apply_exif is False and set(detector.thresholds) <= {"cat"}
    checkpoint = torch.load(tmp_path / "run" / "last.pt", weights_only=True)
    assert checkpoint["thresholds"] == dict(detector.thresholds) and checkpoint["apply_exif"] is False


def test_class_names_are_single_line_and_columns_unique() -> None:
    assert display_name("a\tb\x1b[31m\ud800") == "a\\tb\\x1b[31m\\ud800" and display_name("x" * 41) == "x" * 37 + "..."
    assert display_name("x" * 40) == "x" * 40 and display_name("日本") == "日本"
    titles = column_titles(["a", "step", "x" * 50, "x" * 60, "a"], ("step",))
    assert len({*titles, "step"}) == 6 and titles[0] == "a"


def test_figures_have_color_per_class_and_labels_inside() -> None:
    assert len({color_of(label) for label in range(1, 1000)}) == 999
    image = torch.full((3, 100, 120), 90, dtype=torch.uint8)
    boxes = torch.tensor([[0.0, 0, 30, 30], [115, 95, 300, 300], [math.nan, 0, math.inf, 5]])
    drawn = draw_boxes(image, boxes, torch.tensor([1, 2, 12]), ["a", "a long name"] * 6, torch.tensor([0.9, 0.8, 0.7]))
    assert drawn.shape == image.shape and (image == 90).all()
    pixels = drawn.permute(1, 2, 0).numpy()
    for label in (1, 2):
        color = np.array([int(color_of(label)[i : i + 2], 16) for i in (1, 3, 5)])
        assert (pixels == color).all(axis=2).sum() > 100, "a filled label"


def test_summary_of_many_classes_is_truncated() -> None:
    dataset = open_dataset("shapes", None, "val", size=1)
    dataset.classes = tuple("x" * 5000 + str(i) for i in range(1000))
    text = str(dataset.summary())
    assert "1000 classes: most objects have" in text and "the 980 others" in text and len(text) < 2000
