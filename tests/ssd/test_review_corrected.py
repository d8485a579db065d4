"""Tests the copy of a data set with the unlabeled objects that a review found."""

from __future__ import annotations

from pathlib import Path

import pytest

from ssd.data import open_dataset
from ssd.data_review.corrected import with_unlabeled_objects, write_corrected
from ssd.data_review.findings import Finding
from ssd.data_review.report import Review, ReviewReport
from ssd.data_review.views import View
from ssd.programs import data
from tests.ssd.small_folders import voc_object, write_coco, write_voc
from tests.ssd.test_data_review import Stub

FINDINGS = (
    Finding("unlabeled", 1, 0.9, 2, (40.0, 4.0, 50.0, 20.0)),
    Finding("unlabeled", 0, 0.3, 1, (40.0, 24.0, 50.0, 38.0)),
    Finding("mislabeled", 0, 0.8, 2, (10.0, 5.0, 30.0, 20.0), 0),
    Finding("unlabeled", 0, 0.2, 1, (2.0, 24.0, 12.5, 38.0)),
)


@pytest.fixture
def review(tmp_path: Path) -> Review:
    write_voc(tmp_path / "data", {"a": [voc_object("cat")], "b": [voc_object("dog", difficult=1), voc_object("cat")]})
    return Review("train", open_dataset("voc", tmp_path / "data", "train"), FINDINGS)


def test_unlabeled_objects_follow_those_of_their_image(review: Review) -> None:
    one, two = (with_unlabeled_objects(review, 0.3).target(index) for index in range(2))
    assert one["boxes"].tolist() == [[10, 5, 30, 20], [40, 24, 50, 38], [2, 24, 12.5, 38]]
    assert (one["labels"].tolist(), one["ignore"].tolist()) == ([1, 1, 1], [False, False, True])
    assert two["boxes"].tolist() == [[10, 5, 30, 20], [10, 5, 30, 20], [40, 4, 50, 20]]
    assert (two["labels"].tolist(), two["ignore"].tolist()) == ([2, 1, 2], [True, False, False])
    assert len(review.dataset.annotations.labels) == 3, "the original must not change"


def test_copy_reads_back_with_the_added_objects(review: Review, tmp_path: Path) -> None:
    said = write_corrected(ReviewReport((review,)), tmp_path / "copy", str(tmp_path / "data"), 0.3)
    assert said.endswith("; 2 objects added, 1 more added as ignored") and "2 images with 6 objects" in said
    copy = open_dataset("coco", tmp_path / "copy", "train")
    for index in range(2):
        wanted, target = with_unlabeled_objects(review, 0.3).target(index), copy.target(index)
        assert all(target[key].tolist() == wanted[key].tolist() for key in ("boxes", "labels", "ignore"))


def test_command_writes_the_copy_beside_its_other_files(
    review: Review, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stub = Stub(("cat", "dog"), ([10.0, 5, 30, 20], 0.9, 1), ([40.0, 24, 50, 38], 0.8, 2), ([2.0, 24, 12, 38], 0.2, 1))
    monkeypatch.setattr("ssd.inference.detector.load", lambda *_: stub)
    monkeypatch.setattr("ssd.data_review.report.VIEWS", (View(),))
    (tmp_path / "w.pt").touch()
    arguments = ["review", str(tmp_path / "w.pt"), "--data-path", str(tmp_path / "data"), "--worst", "0", "--fix"]
    data.main([*arguments, str(tmp_path / "copy"), "--fix-score", "0.5"])
    assert "2 objects added, 2 more added as ignored" in capsys.readouterr().out
    assert (tmp_path / "review" / "cvat.xml").is_file()
    assert len(open_dataset("coco", tmp_path / "copy", "train").annotations.labels) == 7
    with pytest.raises(SystemExit, match=r"--fix .*copy must be a new or empty folder"):
        data.main([*arguments, str(tmp_path / "copy")])
    with pytest.raises(SystemExit, match="is inside the data set"):
        data.main([*arguments, str(tmp_path / "data" / "copy")])


def test_areas_of_coco_are_kept_and_added(tmp_path: Path) -> None:
    write_coco(tmp_path, [{"id": 1, "image_id": 3_000_000_000, "category_id": 1, "bbox": [1, 2, 3, 4], "area": 5.5}])
    review = Review("train", open_dataset("coco", tmp_path, "train"), (Finding("unlabeled", 0, 0.9, 1, (0, 0, 4, 2)),))
    coco = with_unlabeled_objects(review, 0.3).annotations.coco
    assert coco is not None and coco.tolist() == [[1, 2, 3, 4, 5.5], [0, 0, 4, 2, 8]]
    nothing = with_unlabeled_objects(Review("train", review.dataset, ()), 0.3).annotations
    assert nothing.coco is not None and nothing.coco.tolist() == coco[:1].tolist()
    assert nothing.offsets.tolist() == [0, 1]
