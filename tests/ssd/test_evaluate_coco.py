"""Tests COCO average precision: the twelve published numbers, crowd regions, invalid ground truth, empty cases."""

import json
from pathlib import Path

import numpy as np
import pytest

from ssd.data import DataError, open_dataset
from ssd.evaluate import Evaluator, Records, coco_ap, coco_backends
from ssd.evaluate.coco_backends import BACKENDS, default_backend
from tests.ssd.real_data import real_data


@pytest.fixture(params=BACKENDS, autouse=True)
def backend(request, monkeypatch):
    """Runs every test of this file with each installed library."""
    pytest.importorskip(request.param)
    monkeypatch.setattr(coco_backends, "default_backend", lambda: request.param)
    return request.param


def corners(rows) -> np.ndarray:
    boxes = np.array([row["bbox"] for row in rows], dtype=float).reshape(-1, 4)
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)


def open_without_images(folder: Path, data: dict, **options):
    """Opens the data set of a JSON file; its images are empty files, since the metric does not need them."""
    (folder / "images").mkdir(parents=True)
    for image in data["images"]:
        (folder / "images" / image["file_name"]).touch()
    (folder / "instances.json").write_text(json.dumps(data))
    return open_dataset("coco", folder, **options)


def published(tmp_path: Path, *, crowds: bool = True):
    """The published detections, their data set, and the published numbers."""
    folder = real_data("coco_eval100")
    data = json.loads((folder / "instances_val2014_100.json").read_text())
    if not crowds:
        data["annotations"] = [row for row in data["annotations"] if not row["iscrowd"]]
    dataset = open_without_images(tmp_path / "data", data)
    rows: dict[int, list[dict]] = {}
    for row in json.loads((folder / "instances_val2014_fakebbox100_results.json").read_text()):
        rows.setdefault(row["image_id"], []).append(row)
    records = Records()
    for index in range(len(dataset)):
        target = dataset.target(index)
        mine = rows.get(target["image_id"], [])
        labels = [dataset.category_ids.index(row["category_id"]) + 1 for row in mine]
        scores = [row["score"] for row in mine]
        records.add({"boxes": corners(mine), "scores": scores, "labels": labels}, target)
    return records, dataset, json.loads((folder / "expected.json").read_text())


@pytest.mark.parametrize(("crowds", "key"), [(True, "bbox"), (False, "bbox_without_crowd")])
def test_coco_ap_equals_published_numbers(crowds, key, tmp_path, capsys):
    records, dataset, expected = published(tmp_path, crowds=crowds)
    assert len(expected[key]) == 12 and dataset.report == []
    result = coco_ap(records, dataset.classes, ground_truth=dataset.annotations)
    for name, value in expected[key].items():
        assert result.stats[name] == pytest.approx(value, abs=1e-12), name
    assert capsys.readouterr().out == "", "the library must stay silent"
    known = [ap for ap, _ in result.per_class.values() if ap == ap]
    assert len(known) == 70 and np.mean(known) == pytest.approx(result.mean_ap)
    assert json.dumps(result.as_dict(), allow_nan=False) and f"AP50 {expected[key]['AP50']:.3f}" in str(result)


def test_coco_ground_truth_from_targets(tmp_path):
    # Only the boxes: without the crowds' rule and the segments' areas AP is near the published one, not equal to it.
    records, dataset, expected = published(tmp_path)
    result = coco_ap(records, dataset.classes)
    assert result.stats["AP50"] == pytest.approx(expected["bbox"]["AP50"], abs=2e-3)


def perfect(ignore=False) -> Records:
    records = Records()
    box = [[10.0, 10.0, 60.0, 60.0], [100.0, 100.0, 150.0, 150.0]]
    records.add(
        {"boxes": box, "scores": [0.9, 0.8], "labels": [1, 1]},
        {"boxes": box[:1] if not ignore else box, "labels": [1] if not ignore else [1, 1], "image_id": 2**40}
        | ({"ignore": [True, False]} if ignore else {}),
    )
    return records


def test_coco_ignored_objects_of_targets():
    assert coco_ap(perfect(), ["a"]).mean_ap == pytest.approx(1.0)
    ignored = perfect(ignore=True)
    assert coco_ap(ignored, ["a"]).mean_ap == pytest.approx(1.0), "the detection of an ignored object is not an error"
    ignored.gt_ignore[0][:] = False
    ignored.boxes[0], ignored.scores[0], ignored.labels[0] = (
        a[1:] for a in (ignored.boxes[0], ignored.scores[0], ignored.labels[0])
    )
    assert coco_ap(ignored, ["a"]).mean_ap < 0.6, "not ignored, it is missed"


def test_faster_coco_eval_and_pycocotools_agree(tmp_path):
    pytest.importorskip("faster_coco_eval")
    records, dataset, _ = published(tmp_path)
    rng = np.random.default_rng(0)
    for index, labels in enumerate(records.labels):  # wrong labels, tied and shuffled scores, difficult objects
        records.labels[index] = np.where(rng.random(len(labels)) < 0.1, rng.integers(1, 81, len(labels)), labels)
        records.scores[index] = records.scores[index].round(1)
        records.gt_ignore[index] |= rng.random(len(records.gt_ignore[index])) < 0.2
        records.boxes[index][rng.random(len(labels)) < 0.05] = (np.nan, 0, np.inf, 1e30)
    for options in ({}, {"ground_truth": dataset.annotations}):
        results = [coco_ap(records, dataset.classes, backend=name, **options) for name in BACKENDS]
        assert results[0].stats == pytest.approx(results[1].stats, abs=1e-12)
        assert list(results[0].per_class) == list(results[1].per_class)
        for name, pair in results[0].per_class.items():
            assert pair == pytest.approx(results[1].per_class[name], abs=1e-12, nan_ok=True), name


def test_faster_coco_eval_is_preferred_when_installed(monkeypatch):
    for installed, expected in ((BACKENDS, BACKENDS[0]), (BACKENDS[1:], BACKENDS[1])):
        monkeypatch.setattr(coco_backends, "is_installed", installed.__contains__)
        assert default_backend() == expected


def test_coco_classes_not_ordered_by_id(tmp_path):
    records, dataset, _ = published(tmp_path)
    plain = coco_ap(records, dataset.classes, ground_truth=dataset.annotations)
    data = json.loads(dataset.annotation_file.read_text())
    turned = open_without_images(tmp_path / "turned", data, classes=dataset.classes[::-1])
    for labels in records.labels:
        labels[:] = len(dataset.classes) + 1 - labels
    result = coco_ap(records, turned.classes, ground_truth=turned.annotations)
    assert result.stats == pytest.approx(plain.stats, abs=1e-12)
    for name, pair in plain.per_class.items():
        assert result.per_class[name] == pytest.approx(pair, abs=1e-12, nan_ok=True), name


def test_coco_ap_without_ground_truth_is_nan():
    assert np.isnan(coco_ap(Records(), ["a"]).mean_ap)
    records = Records()
    records.add({"boxes": [], "scores": [], "labels": []}, {"boxes": [[0, 0, 5, 5]], "labels": [1], "image_id": 1})
    result = coco_ap(records, ["a", "b"])
    assert result.mean_ap == 0 and result.per_class["a"] == (0.0, 0.0) and np.isnan(result.per_class["b"]).all()
    assert "ARlarge n/a" in str(result) and result.as_dict()["classes"]["b"] == {"ap": None, "ap50": None}


@pytest.mark.parametrize("box", [[np.nan] * 4, [0, 0, np.inf, 9], [-1e25, -1e25, 1e25, 1e25], [90, 60, 10, 70]])
def test_degenerate_detection_is_false_positive(box):
    records = Records()
    records.add(
        {"boxes": [box, [10, 10, 60, 60]], "scores": [0.9, 0.8], "labels": [1, 1]},
        {"boxes": [[10, 10, 60, 60]], "labels": [1], "image_id": 1},
    )
    assert coco_ap(records, ["a"]).mean_ap == pytest.approx(0.5)
    assert records.count_not_finite() == int(not np.isfinite(box).all())


def ids_as(kind):
    """Writes every id with another type, like pandas and some exports."""
    keys = {"images": ["id"], "annotations": ["image_id", "category_id"], "categories": ["id"]}
    return lambda data: [row.update({key: kind(row[key])}) for part in keys for row in data[part] for key in keys[part]]


ODD = {
    "ids are floats": ids_as(float),
    "ids are strings": ids_as(str),
    "an image has no id": lambda data: data["images"].append({"file_name": "x.jpg", "width": 3, "height": 3}),
    "an area is null": lambda data: data["annotations"][0].update(area=None),
    "an area is a string": lambda data: data["annotations"][0].update(area="1600"),
    "an area is a list": lambda data: data["annotations"][0].update(area=[1]),
    "a box is of strings": lambda data: data["annotations"][0].update(bbox=["10", "10", "40", "40"]),
    "an annotation is null": lambda data: data["annotations"].append(None),
    "an annotation has no category": lambda data: data["annotations"].append({"image_id": 1, "bbox": [1, 2, 3, 4]}),
}


@pytest.mark.parametrize("odd", ODD.values(), ids=list(ODD))
def test_coco_evaluation_uses_boxes_as_read(odd, tmp_path):
    data = {
        "images": [{"id": i, "file_name": f"{i}.jpg", "width": 96, "height": 64} for i in (1, 2)],
        "annotations": [
            {"id": i, "image_id": i, "category_id": 5, "bbox": [10, 10, 40, 40], "area": 1600, "iscrowd": 0}
            for i in (1, 2)
        ],
        "categories": [{"id": 5, "name": "cell"}],
    }
    odd(data)
    for image in data["images"]:
        image.setdefault("file_name", "none.jpg")
    dataset = open_without_images(tmp_path / "data", data)
    evaluator = Evaluator.of(dataset, "coco")
    for index in range(len(dataset)):
        target = dataset.target(index)
        evaluator.update([{**target, "scores": np.ones(len(target["labels"]))}], [target])
    result = evaluator.summarize()
    assert result.mean_ap == pytest.approx(1.0) and result.images == 2 and result.stats["APmedium"] == pytest.approx(1)


def test_coco_orphan_annotations_and_mixed_id_types(tmp_path):
    data = json.loads((real_data("coco_eval100") / "gt_ignore_test.json").read_text())
    for number, image in enumerate(data["images"]):
        image.update(file_name=f"{number}.jpg", width=10_000, height=10_000)
    dataset = open_without_images(tmp_path / "data", data)
    records = Records()
    for index in range(len(dataset)):
        target = dataset.target(index)
        records.add({**target, "scores": np.ones(len(target["labels"]))}, target)
    result = coco_ap(records, dataset.classes, ground_truth=dataset.annotations)
    assert result.mean_ap == pytest.approx(1.0)


def test_coco_bad_input_error_messages(tmp_path):
    records = perfect()
    with pytest.raises(DataError, match="backend must be one of 'faster_coco_eval', 'pycocotools', got 'coco'"):
        coco_ap(records, ["a"], backend="coco")
    _, dataset, _ = published(tmp_path)
    with pytest.raises(DataError, match="no image with id 1099511627776"):
        coco_ap(records, ["a"], ground_truth=dataset.annotations)
    with pytest.raises(DataError, match=r"must be in 1 \.\. 0"):
        coco_ap(records, [])
    none = {"boxes": [], "scores": [], "labels": []}
    for image_id, label in ((7, 9), (8, -1)):
        odd = Records()
        odd.add(none, {"boxes": [[0, 0, 1, 1]], "labels": [label], "image_id": image_id})
        with pytest.raises(DataError, match=rf"labels of the targets must be in 1 \.\. 1, got {label} \.\. {label}"):
            coco_ap(odd, ["a"])
    for labels, image_id, message in (
        ([1.5], 5, r"labels must be integers, got 1\.5"),
        ([1], 5.5, r"must have an image_id, an integer, got 5\.5"),
        ([1], None, "must have an image_id, an integer, got None"),
    ):
        with pytest.raises(DataError, match=message):
            records.add(none, {"boxes": [[0, 0, 1, 1]], "labels": labels, "image_id": image_id})
    with pytest.raises(DataError, match="the target of image_id 5: box 1 is not finite"):
        records.add(none, {"boxes": [[0, 0, 1, 1], [0, 0, 1, np.inf]], "labels": [1, 1], "image_id": 5})


def test_evaluator_uses_annotations_of_coco_dataset():
    dataset = open_dataset("coco", real_data("coco_cc_mini"))
    evaluator = Evaluator.of(dataset, "coco")
    assert evaluator.ground_truth is dataset.annotations
    for index in range(len(dataset)):
        target = dataset.target(index)
        kept = ~target["ignore"]
        scores = np.ones(int(kept.sum()))
        evaluator.update(
            [{"boxes": target["boxes"][kept], "labels": target["labels"][kept], "scores": scores}], [target]
        )
    result = evaluator.summarize()
    assert result.mean_ap == pytest.approx(1.0) and result.images == 33
