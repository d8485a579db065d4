"""Tests the measurement on data with missing annotations: what is missing, recall at a precision, and the commands."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import missing_annotations as measured
from tests.ssd.small_folders import voc_object, write_voc

FIRST, SECOND, THIRD = (1, 1, 11, 11), (21, 1, 31, 11), (41, 21, 55, 35)


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """The original annotations have FIRST only."""
    original, completed = tmp_path / "original", tmp_path / "completed"
    cells = [voc_object("cat", FIRST), voc_object("cat", SECOND), voc_object("dog", THIRD)]
    for folder, objects in ((original, cells[:1]), (completed, cells)):
        for split in ("train", "val"):
            write_voc(folder, {split[0]: objects}, split)
    return original, completed


def finding(box: tuple[int, ...], score: float, name: str) -> dict[str, Any]:
    return {"kind": "unlabeled", "file": "v.jpg", "class": name, "box": list(box), "score": score}


def test_missing_objects_and_their_recall(folders: tuple[Path, Path]) -> None:
    missing = measured.missing_objects(*folders, "val")
    boxes = [(name, box.tolist()) for name, box in missing["v"]]
    assert boxes == [("cat", [20, 0, 31, 11]), ("dog", [40, 20, 55, 35])]  # from 0, as detections
    found = [finding(SECOND, 0.9, "cat"), finding(SECOND, 0.8, "cat"), finding(THIRD, 0.7, "dog")]
    assert measured.recall_at(0.85, found, missing, ["cat", "dog"]) == 0.5  # the duplicate is wrong
    assert measured.recall_at(0.6, found, missing, ["cat", "dog"]) == 1
    assert measured.recall_at(0.85, found, missing, ["dog"]) == 1
    assert measured.recall_at(0.85, [finding(FIRST, 1.0, "dog")], missing, ["dog"]) == 0


def test_completed_variant_trains_reviews_and_trains_again(
    folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    called = []

    def program(*arguments: str) -> None:
        called.append(arguments)
        if "--json" in arguments:
            Path(arguments[arguments.index("--json") + 1]).write_text('{"mean_ap": 0.5}')
        elif arguments[0] == "train":
            run = Path(arguments[arguments.index("--output-dir") + 1])
            (run / "review").mkdir(parents=True)
            (run / "eval.csv").touch()
            review = {"findings": [finding(SECOND, 0.9, "cat")]}
            (run / "review" / "review.json").write_text(json.dumps(review))

    monkeypatch.setattr(measured, "ssd_program", program)
    flags = ["--original", str(folders[0]), "--completed", str(folders[1]), "--output", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", ["x", *flags, "--variants", "ignore", "completed by review"])
    measured.main()
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    assert [row["variant"] for row in rows] == ["ignore", "completed by review"]
    assert rows[1]["recall at precision 0.85"] == {"all": 0.5, "cat": 1, "dog": 0}
    measuring = [*["eval"] * 5, "data"]
    assert [arguments[0] for arguments in called] == ["train", *measuring, "train", "data", "train", *measuring]
    noisy = (tmp_path / "out" / "data" / "Annotations" / "t.xml").read_text()
    assert noisy == (folders[0] / "Annotations" / "t.xml").read_text()
    epochs = [arguments[arguments.index("--epochs") + 1] for arguments in called if arguments[0] == "train"]
    assert epochs == ["40", "16", "32"]
    assert "--fix" in called[8] and str(tmp_path / "out" / "completed-0") in called[9]
    monkeypatch.setattr(sys, "argv", ["x", *flags, "--variants", "ignore", "--all-images"])
    measured.main()
    trained = called[16]
    assert trained[trained.index("--data-path") + 1] == str(folders[0])
    assert trained[trained.index("--output-dir") + 1] == str(tmp_path / "out" / "all-images" / "ignore-0")
