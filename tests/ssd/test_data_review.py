"""`ssd data review`: views and their merging, what counts as a finding, review page and files for annotation tools."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import pytest
import torch

from ssd.common.console import console_program
from ssd.config import TrainConfig
from ssd.data import DataError, DetectionDataset, open_dataset
from ssd.data.annotations import AnnotationsBuilder
from ssd.data.faults import FaultLog
from ssd.data.pack import pack
from ssd.data_review import report
from ssd.data_review.findings import Annotated, find_misannotated, find_unlabeled
from ssd.data_review.views import Merged, View, merge_views
from ssd.inference.detector import Detector
from ssd.inference.result import Result
from ssd.programs import data as data_program
from ssd.programs import data_review
from tests.ssd.small_folders import save_image, voc_object, write_voc

NONE = np.zeros((0, 4))


@pytest.mark.parametrize("view", [View(), View(0.1), View(0.1, hflip=True), View(0.1, vflip=True), View(0, True, True)])
def test_view_boxes_are_mapped_back(view: View) -> None:
    image = torch.zeros(3, 40, 60, dtype=torch.uint8)
    image[:, 4:14, 20:50] = 255
    seen = view.apply(image)
    rows, columns = (torch.nonzero(seen[0].amax(axis) == 255).flatten() for axis in (1, 0))
    if view.border:
        assert seen.shape == (3, 48, 72)
        rows = rows[(rows >= 8) & (rows < 44)] if not view.vflip else rows[(rows < 40) & (rows >= 4)]
    box = torch.tensor([[columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]])
    assert view.restore(box, 40, 60).tolist() == [[20, 4, 50, 14]]


def test_view_borders_are_reflected_and_boxes_clipped() -> None:
    image = torch.arange(10, dtype=torch.uint8).expand(3, 10, 10)
    assert View(0.2).apply(image)[0, 0].tolist() == [2, 1, *range(10), 8, 7]
    assert View(0.2).apply(image[:, :1, :1]).shape == (3, 1, 1)  # one pixel cannot be reflected
    assert View(0.2).restore(torch.tensor([[0.0, 1.0, 14.0, 7.0]]), 10, 10).tolist() == [[0, 0, 10, 5]]


def test_merged_score_is_mean_over_views() -> None:
    first = np.array([[0.0, 0, 10, 10], [0, 0, 10, 8], [20, 20, 40, 40], [30, 30, 30.1, 40]])
    second = np.array([[0.0, 0, 10, 12], [20, 20, 40, 40]])
    scores, labels = [np.array([0.9, 0.5, 0.4, 0.9]), np.array([0.3, 0.8])], [np.array([1, 1, 1, 1]), np.array([1, 2])]
    merged = merge_views([first, second], scores, labels, (50, 50))
    assert merged.scores.tolist() == pytest.approx([0.6, 0.4, 0.2])
    assert merged.labels.tolist() == [1, 2, 1]
    assert merged.boxes[0].tolist() == pytest.approx([0, 0, 10, (0.9 * 10 + 0.5 * 8 + 0.3 * 12) / 1.7])


def found(*rows: tuple[list[float], float, int]) -> Merged:
    return Merged(*(np.array(column) for column in zip(*rows, strict=True)))


def test_uncovered_detections_are_unlabeled_objects() -> None:
    crowd = [100.0, 0, 200, 100]
    annotated = Annotated(np.array([[0.0, 0, 10, 10], crowd]), np.array([1, 1]), np.array([False, True]))
    detections = found(
        ([0.0, 0, 10, 12], 0.9, 2),  # covered, whatever its class
        ([30.0, 0, 40, 10], 0.8, 1),
        ([31.0, 0, 40, 10], 0.7, 2),  # the same place
        ([110.0, 10, 120, 20], 0.6, 1),  # in a crowd
        ([60.0, 0, 70, 10], 0.5, 2),
    )
    assert [(f.score, f.label, f.box[0]) for f in find_unlabeled(3, detections, annotated)] == [
        (0.8, 1, 30),
        (0.5, 2, 60),
    ]
    nothing = Annotated(NONE, np.zeros(0, int), np.zeros(0, bool))
    assert len(list(find_unlabeled(0, detections, nothing))) == 4
    assert not list(find_unlabeled(0, Merged(NONE, np.zeros(0), np.zeros(0, int)), annotated))


def test_contradicted_annotations_are_findings() -> None:
    boxes = np.array([[0.0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10], [60, 0, 70, 10], [80, 0, 90, 10]])
    annotated = Annotated(boxes, np.ones(5, int), np.array([False, False, False, False, True]))
    detections = found(
        ([0.0, 0, 10, 10], 0.9, 2),
        ([0.0, 0, 10, 10], 0.2, 1),
        ([20.0, 0, 30, 10], 0.8, 1),  # as annotated
        ([20.0, 0, 30, 10], 0.3, 2),
        ([42.0, 0, 54, 10], 0.6, 1),  # IoU 8 / 14
        ([80.0, 0, 90, 10], 0.6, 2),  # ignored
    )
    one, two = find_misannotated(0, detections, annotated)
    assert (one.kind, one.object_index, one.label, round(one.score, 6)) == ("mislabeled", 0, 2, 0.7)
    assert (two.kind, two.object_index, two.box) == ("misplaced", 2, (42, 0, 54, 10))
    assert two.score == pytest.approx(0.6 * (1 - 8 / 14))
    nothing = Annotated(NONE, np.zeros(0, int), np.zeros(0, bool))
    assert not list(find_misannotated(0, detections, nothing))


def test_annotations_of_unknown_classes_are_not_reviewed() -> None:
    detections = found(([0.0, 0, 10, 10], 0.9, 1))
    annotated = Annotated(np.array([[0.0, 0, 10, 10]]), np.array([2]), np.array([False]))
    assert not [*find_misannotated(0, detections, annotated, known=(0, 1)), *find_unlabeled(0, detections, annotated)]
    assert [f.kind for f in find_misannotated(0, detections, annotated, known=(0, 1, 2))] == ["mislabeled"]


class Stub(Detector):
    """Detects the same objects in every image."""

    def __init__(self, classes: tuple[str, ...], *rows: tuple[list[float], float, int]) -> None:
        self.classes, self.rows = classes, rows

    def stream(self, source, **options):
        boxes, scores, labels = (torch.tensor(column) for column in zip(*self.rows, strict=True))
        for image in source:
            yield Result(boxes, labels, scores, self.classes, image)


@pytest.fixture
def reviewed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> tuple[Path, str]:
    """The files and the text of a review of two images with a cat each; one cannot be read."""
    objects = [voc_object("a&amp;b", (11, 6, 30, 20)), voc_object("dog", (41, 6, 50, 20))]
    write_voc(tmp_path / "data", {"one": [*objects, voc_object("cow", (6, 26, 15, 35))], "two": objects})
    (tmp_path / "data" / "JPEGImages" / "two.jpg").write_bytes(b"")
    (tmp_path / "w.pt").touch()
    stub = Stub(
        ("dog", "a&b"),
        ([10.0, 5, 30, 20], 0.9, 1),
        ([42.0, 24, 55, 38], 0.6, 2),
        ([42.0, 5, 54, 20], 0.5, 1),
        ([5.0, 25, 15, 35], 0.4, 1),
    )
    monkeypatch.setattr("ssd.inference.detector.load", lambda *_: stub)
    monkeypatch.setattr(report, "VIEWS", (View(),))
    arguments = ["review", str(tmp_path / "w.pt"), "--data-path", str(tmp_path / "data"), "--worst", "1"]
    data_program.main(arguments)
    return tmp_path / "review", capsys.readouterr().out


def test_review_files(reviewed: tuple[Path, str]) -> None:
    folder, out = reviewed
    assert "the model does not know cow: their annotations are not reviewed" in out
    assert "unlabeled: 1 (a&b 1)" in out and "mislabeled: 1 (dog 1)" in out and "misplaced: 1 (dog 1)" in out
    assert "one.jpg, object 0 (a&b): mislabeled, dog at x 10 .. 30, y 5 .. 20, score 0.90" in out
    rows = json.loads((folder / "review.json").read_text())["findings"]
    assert [row["kind"] for row in rows] == ["unlabeled", "mislabeled", "misplaced"]
    assert rows[1]["annotated"] == {"class": "a&b", "box": [10, 5, 30, 20]} and rows[1]["object_index"] == 0
    page = (folder / "review.html").read_text()
    assert page.count("data:image/jpeg") == 3 and "<b>a&amp;b → dog</b>" in page


def test_annotation_tool_files_have_corrections(reviewed: tuple[Path, str]) -> None:
    root = ElementTree.parse(reviewed[0] / "cvat.xml").getroot()
    assert [image.get("name") for image in root.iter("image")] == ["JPEGImages/one.jpg", "JPEGImages/two.jpg"]
    assert [label.findtext("name") for label in root.iter("label")] == ["a&b", "cow", "dog"]
    rows = [(box.get("label"), box.get("source"), box.get("xtl")) for box in root.iter("box")]
    assert rows == [
        ("dog", "auto", "10.00"),
        ("dog", "auto", "42.00"),
        ("cow", "manual", "5.00"),
        ("a&b", "auto", "42.00"),
        ("a&b", "manual", "10.00"),
        ("dog", "manual", "40.00"),
    ]
    (task,) = json.loads((reviewed[0] / "label_studio.json").read_text())
    assert task["data"]["image"] == "/data/local-files/?d=JPEGImages/one.jpg"
    before, after = task["annotations"][0]["result"], task["predictions"][0]["result"]
    assert [len(before), len(after)] == [3, 4] and "score" not in before[0] and after[0]["score"] == 0.9
    value = after[3]["value"]
    assert value.pop("rectanglelabels") == ["a&b"]
    assert value == pytest.approx({"x": 70, "y": 60, "width": 100 * 13 / 60, "height": 35, "rotation": 0}, abs=1e-3)


def test_review_files_are_written_independently(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["a&b #1+100%.jpg", os.fsdecode(b"\xff.jpg")]
    builder = AnnotationsBuilder()
    for number, name in enumerate(names):
        builder.add(str(tmp_path / name), number, (40, 60), [(10, 5, 30, 20)], [1], [False])
        save_image(tmp_path / "a.jpg")
        (tmp_path / name).write_bytes((tmp_path / "a.jpg").read_bytes())
    data = DetectionDataset("data", ("cat\x01",), builder, FaultLog("raise"))
    (tmp_path / "review.html").mkdir()
    monkeypatch.setattr("ssd.data_check.splits.open_all", lambda *_: ({"all": data}, []))
    monkeypatch.setattr("ssd.inference.detector.load", lambda *_: Stub(data.classes, ([40.0, 5, 55, 20], 0.9, 1)))
    monkeypatch.setattr(report, "VIEWS", (View(),))
    args = SimpleNamespace(
        checkpoint="", device="cpu", splits=[], min_score=0.1, worst=1, output=str(tmp_path), fix=None
    )
    with pytest.raises(DataError, match=r"^not written: review.html \(cannot write"):
        console_program(data_review.run)(args, TrainConfig(data_path=str(tmp_path)))  # type: ignore[arg-type]
    root = ElementTree.parse(tmp_path / "cvat.xml").getroot()
    assert [image.get("name") for image in root.iter("image")] == ["a&b #1+100%.jpg", r"\udcff.jpg"]
    assert {box.get("label") for box in root.iter("box")} == {r"cat\x01"}
    tasks = json.loads((tmp_path / "label_studio.json").read_text())
    paths = [task["data"]["image"].partition("?d=")[2] for task in tasks]
    assert paths == ["a%26b%20%231%2B100%25.jpg", "%FF.jpg"]
    assert "review.json, cvat.xml, label_studio.json" in capsys.readouterr().out
    pack({"all": data}, tmp_path / "out", tmp_path, "voc")
    assert open_dataset("shards", tmp_path / "out", "all").relative_names(".") == names


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{file}"], "--data-path is required"),
        (["nowhere.pt"], "nowhere.pt"),
        (["{file}", "--min-score", "0"], "--min-score must be in (0, 1]"),
        (["{file}", "--fix-score", "2"], "--fix-score must be in (0, 1]"),
        (["{file}", "--worst", "-1"], "--worst must not be negative"),
        (["{file}", "--data-path", "nowhere"], "nowhere"),
    ],
)
def test_review_argument_errors(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "w.pt"
    file.touch()
    with pytest.raises(SystemExit) as end:
        data_program.parse_args(["review", *(argument.format(file=file) for argument in arguments)])
    assert end.value.code == 2 and message in capsys.readouterr().err


def test_review_ignores_options_that_hide_annotations(tmp_path: Path) -> None:
    write_voc(tmp_path / "data", {"one": [voc_object()]})
    settings = {"dataset": "voc", "data_path": str(tmp_path / "data")}
    settings["dataset_options"] = {"difficult": "drop", "coordinates": "as_is"}
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text(json.dumps(settings))
    (tmp_path / "run" / "best.pt").touch()
    args, config = data_program.parse_args(["review", str(tmp_path / "run")])
    assert config.dataset_options == {"coordinates": "as_is"} and args.output == str(tmp_path / "run" / "review")
    assert data_review.ABOUT and open_dataset("voc", config.data_path, "train", **config.dataset_options)
