"""`ssd eval`: the numbers of training, classes by name, confusion matrix, worst errors."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ssd.common.errors import DataError
from ssd.config import TrainConfig
from ssd.data import open_dataset
from ssd.engine.evaluation import best_thresholds
from ssd.engine.loop import run
from ssd.evaluate import Evaluator, Records, voc_ap
from ssd.evaluate.confusion import Pair, confusion_matrix, pair_up, worst_errors
from ssd.evaluate.relabel import describe_map, map_classes, relabel
from ssd.programs import eval as program
from tests.ssd.small_folders import voc_object, write_voc

SMALL = {"dataset": "shapes", "dataset_options": {"size": 12}, "image_size": 64, "model_options": {"width": 8}}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished small run."""
    folder = tmp_path_factory.mktemp("eval") / "run"
    config = TrainConfig(**SMALL, epochs=1, batch_size=4, workers=0, output_dir=str(folder), pictures=0, lr=1e-5)
    return run(config).path


@pytest.mark.parametrize("name", ["", pytest.param("best.pt", marks=pytest.mark.slow)])
def test_eval_of_run_equals_evaluation_in_training(
    finished: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    trained = json.loads((finished / "eval.json").read_text())
    program.main([str(finished / name), "--save", str(tmp_path / "out"), "--json", str(tmp_path / "a.json"), "-j", "0"])
    found = json.loads((tmp_path / "out" / "eval.json").read_text())
    assert found == json.loads((tmp_path / "a.json").read_text())
    thresholds = found.pop("thresholds")
    assert thresholds == torch.load(finished / "best.pt", weights_only=True)["thresholds"]
    trained.pop("epoch")
    assert found == trained and sum(row["detections"] for row in found["classes"].values()) > 0
    assert "AP gain if fixed" in capsys.readouterr().out


def test_eval_save_writes_all_files(finished: Path, tmp_path: Path) -> None:
    program.main([str(finished), "--save", str(tmp_path), "--worst", "2", "--score-threshold", "0.2", "-j", "0"])
    names = {path.name for path in tmp_path.iterdir()}
    assert names >= {"eval.json", "pr.png", "confusion.png", "confusion.csv", "errors.json", "missed.png"}
    errors = json.loads((tmp_path / "errors.json").read_text())
    assert all(len(rows) <= 2 for rows in errors.values()) and errors["missed"]
    rows = list(csv.reader((tmp_path / "confusion.csv").open(newline="")))
    assert rows[0] == ["ground truth", "disc", "square", "triangle", "star", "missed"]
    objects = sum(c["objects"] for c in json.loads((tmp_path / "eval.json").read_text())["classes"].values())
    assert sum(int(count) for row in rows[1:-1] for count in row[1:]) == objects
    with Image.open(tmp_path / "missed.png") as drawing:
        assert drawing.width > 600


def test_eval_without_common_class_raises(finished: Path, tmp_path: Path) -> None:
    write_voc(tmp_path, {"a": [voc_object("dog")]}, "val")
    with pytest.raises(SystemExit) as end:
        program.main([str(finished), "--data-path", str(tmp_path), "--split", "val", "-j", "0"])
    assert "no class in common: disc, square, triangle, star in the model, dog in the data" in str(end.value)


def test_eval_on_other_data_ignores_data_settings_of_run(finished: Path, tmp_path: Path) -> None:
    write_voc(tmp_path, {"a": [voc_object("dog")]}, "val")
    _, config = program.parse_args([str(finished), "--data-path", str(tmp_path), "--metric", "voc07", "-b", "3"])
    assert (config.dataset, config.dataset_options) == ("voc", {})
    assert (config.eval_metric, config.batch_size, config.model) == ("voc07", 3, "ssd_tiny")
    _, config = program.parse_args([str(finished), "--dataset-option", "size=5"])
    assert config.dataset_options == {"size": 5}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{file}"], "--data-path is required: {file} does not record the data set of its run"),
        (["{file}", "--data-path", "nowhere"], "--data-path must be an existing folder, or a file with the suffix"),
        (["nowhere.pth"], "checkpoint nowhere.pth does not exist"),
        (["{file}", "--dataset", "vco", "--data-path", "."], "got 'vco' (did you mean 'voc'?)"),
        (["{file}", "--score-threshold", "2"], "--score-threshold must be in 0..1"),
        (["{file}", "--worst", "-1"], "--worst must not be negative"),
        (["{file}", "--dataset", "shapes", "-b", "0"], "--batch-size must be at least 1"),
        (["{file}", "--dataset", "shapes", "--json", "no/x.json"], "--json no/x.json: there is no folder no"),
        (["{file}", "--dataset", "shapes", "--json", "."], "--json must be a file, got the folder"),
        (["{file}", "--save", "{file}"], "--save must be a folder, got the file"),
    ],
)
def test_eval_argument_errors_are_one_line(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "weights.pth"
    file.touch()
    with pytest.raises(SystemExit) as end:
        program.parse_args([argument.format(file=file) for argument in arguments])
    assert end.value.code == 2
    assert message.format(file=file) in capsys.readouterr().err


def test_eval_of_recorded_code_data_set_needs_trust(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"dataset": "some.module:Data"}))
    (tmp_path / "last.pt").touch()
    with pytest.raises(SystemExit):
        program.parse_args([str(tmp_path)])
    assert "which would run code" in capsys.readouterr().err
    assert program.parse_args([str(tmp_path), "--trust-config"])[1].dataset == "some.module:Data"


def test_model_classes_are_mapped_by_name() -> None:
    model, data = ("person", "airplane", "Dog"), ("dog", "aeroplane", "cat")
    labels = map_classes(model, data)
    assert labels.tolist() == [0, 0, 2, 1]
    missing, unused = describe_map(labels, model, data)
    assert missing.startswith("the model does not know cat") and "does not have person" in unused
    assert map_classes(("1", "2"), ("cat", "dog")).tolist() == [0, 1, 2]  # a file without names
    assert map_classes(("Dog", "dog", "sofa", "couch"), ("couch", "dog", "Dog")).tolist() == [0, 3, 2, 0, 1]
    with pytest.raises(DataError, match="holds no class names"):
        map_classes(("1", "2", "3"), ("cat", "dog"))


def image(
    boxes: list, labels: list[int], scores: list[float], gt: list, gt_labels: list[int], ignore: list[bool]
) -> Records:
    records = Records()
    target = {"boxes": np.array(gt, float), "labels": gt_labels, "ignore": ignore, "image_id": 7}
    records.add({"boxes": np.array(boxes, float), "labels": labels, "scores": scores}, target)
    return records


A, B, C, FAR = [0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10], [80, 80, 90, 90]


def test_relabel_drops_detections_of_unknown_classes() -> None:
    records = image([A, B], [1, 2], [0.9, 0.8], [B], [1], [False])
    relabel(records, np.array([0, 0, 1]))
    assert records.labels[0].tolist() == [1] and records.boxes[0].tolist() == [B]
    assert voc_ap(records, ["cat"]).mean_ap == 1.0


def test_confusion_pairs_prefer_same_class_and_use_objects_once() -> None:
    # a second detection of A, one of another class on it with a better IoU, B taken for 2, C ignored
    boxes = [A, [0, 0, 10, 9], [0, 0, 10, 8], B, C, FAR]
    records = image(
        boxes, [2, 1, 1, 2, 1, 1], [0.9, 0.8, 0.7, 0.6, 0.9, 0.95], [A, B, C], [1, 1, 1], [False, False, True]
    )
    pairs = list(pair_up(records, np.array([1.0, 0.5, 0.5])))
    assert {(pair.detection, pair.gt) for pair in pairs} == {(1, 0), (3, 1), (0, -1), (2, -1), (5, -1)}
    assert confusion_matrix(records, pairs, 2).tolist() == [[0, 2, 1], [0, 1, 1], [0, 0, 0]]


def test_confusion_ignores_detections_below_class_threshold() -> None:
    records = image([A, B], [1, 2], [0.4, 0.4], [A, B], [1, 2], [False, False])
    pairs = list(pair_up(records, np.array([1.0, 0.5, 0.3])))
    assert pairs == [Pair(0, 1, 1, 1.0), Pair(0, -1, 0, 0.0)]


def test_worst_errors_are_sorted() -> None:
    large = [0, 50, 40, 90]
    records = image([FAR, B, [60, 60, 70, 70]], [1, 2, 1], [0.6, 0.9, 0.8], [B, A, large], [1, 1, 1], [False] * 3)
    errors = worst_errors(records, list(pair_up(records, np.zeros(3))))
    assert [pair.detection for pair in errors["false_positives"]] == [2, 0]
    assert [(pair.detection, pair.gt) for pair in errors["confusions"]] == [(1, 0)]
    assert [pair.gt for pair in errors["missed"]] == [2, 1]


def test_best_threshold_includes_its_detection() -> None:
    dataset = open_dataset("shapes", None, "val", size=1)
    target = dataset.target(0)
    evaluator = Evaluator.of(dataset)
    score = 0.42345  # rounds up to 0.4235
    found = {"boxes": target["boxes"], "labels": target["labels"], "scores": [score] * len(target["labels"])}
    evaluator.update([found], [target])
    assert best_thresholds(evaluator.summarize())
    assert all(value <= score for value in best_thresholds(evaluator.summarize()).values())
