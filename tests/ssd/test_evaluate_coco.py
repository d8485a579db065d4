"""COCO average precision: the published twelve numbers, crowd regions, bad ground truths, empty cases."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from ssd.data import DataError, open_dataset
from ssd.evaluate import Evaluator, Records, coco_ap, coco_backends
from ssd.evaluate.coco import clean_ground_truth
from ssd.evaluate.coco_backends import BACKENDS, default_backend
from tests.ssd.real_data import real_data


@pytest.fixture(params=BACKENDS, autouse=True)
def backend(request, monkeypatch):
    """Every test of this file with each library, where it is installed."""
    pytest.importorskip(request.param)
    monkeypatch.setattr(coco_backends, "default_backend", lambda: request.param)
    return request.param


def corners(rows) -> np.ndarray:
    boxes = np.array([row["bbox"] for row in rows], dtype=float).reshape(-1, 4)
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)


def published() -> tuple[Records, dict, list[str], list[int], dict]:
    folder = real_data("coco_eval100")
    data = json.loads((folder / "instances_val2014_100.json").read_text())
    detections = json.loads((folder / "instances_val2014_fakebbox100_results.json").read_text())
    categories = sorted(data["categories"], key=lambda category: category["id"])
    ids = [category["id"] for category in categories]
    records = Records()
    for image in data["images"]:
        mine = [row for row in detections if row["image_id"] == image["id"]]
        objects = [row for row in data["annotations"] if row["image_id"] == image["id"]]
        records.add(
            {
                "boxes": corners(mine),
                "scores": [row["score"] for row in mine],
                "labels": [ids.index(row["category_id"]) + 1 for row in mine],
            },
            {
                "boxes": corners(objects),
                "labels": [ids.index(row["category_id"]) + 1 for row in objects],
                "ignore": [bool(row["iscrowd"]) for row in objects],
                "image_id": image["id"],
            },
        )
    expected = json.loads((folder / "expected.json").read_text())
    return records, data, [category["name"] for category in categories], ids, expected


def test_published_numbers(capsys):
    records, data, names, ids, expected = published()
    assert len(expected["bbox"]) == 12
    result = coco_ap(records, names, ground_truth=data, category_ids=ids)
    for name, value in expected["bbox"].items():
        assert result.stats[name] == pytest.approx(value, abs=1e-12), name
    without = {**data, "annotations": [row for row in data["annotations"] if not row["iscrowd"]]}
    result = coco_ap(records, names, ground_truth=without, category_ids=ids)
    for name, value in expected["bbox_without_crowd"].items():
        assert result.stats[name] == pytest.approx(value, abs=1e-12), name
    assert capsys.readouterr().out == "", "the library must stay silent"
    known = [ap for ap, _ in result.per_class.values() if ap > -1]
    assert len(known) == 70 and np.mean(known) == pytest.approx(result.mean_ap)
    assert "AP50 0.697" in str(result) and json.dumps(result.as_dict())


def test_ground_truth_from_targets():
    # Only the boxes: without the crowd's masks and the segments' areas AP is near the published one, not equal to it.
    records, _, names, _, expected = published()
    result = coco_ap(records, names)
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


def test_ignored_objects_of_targets():
    assert coco_ap(perfect(), ["a"]).mean_ap == pytest.approx(1.0)
    ignored = perfect(ignore=True)
    assert coco_ap(ignored, ["a"]).mean_ap == pytest.approx(1.0), "the detection of an ignored object is no error"
    ignored.gt_ignore[0][:] = False
    ignored.boxes[0], ignored.scores[0], ignored.labels[0] = (
        a[1:] for a in (ignored.boxes[0], ignored.scores[0], ignored.labels[0])
    )
    assert coco_ap(ignored, ["a"]).mean_ap < 0.6, "not ignored, it is missed"


def test_both_libraries_give_the_same_numbers():
    pytest.importorskip("faster_coco_eval")
    records, data, names, ids, _ = published()
    rng = np.random.default_rng(0)
    for index, labels in enumerate(records.labels):  # wrong labels, tied and shuffled scores, difficult objects
        records.labels[index] = np.where(rng.random(len(labels)) < 0.1, rng.integers(1, 81, len(labels)), labels)
        records.scores[index] = records.scores[index].round(1)
        records.gt_ignore[index] |= rng.random(len(records.gt_ignore[index])) < 0.2
    for options in ({}, {"ground_truth": data, "category_ids": ids}):
        results = [coco_ap(records, names, backend=name, **options) for name in BACKENDS]
        assert results[0].stats == pytest.approx(results[1].stats, abs=1e-12)
        assert list(results[0].per_class) == list(results[1].per_class)
        for name, pair in results[0].per_class.items():
            assert pair == pytest.approx(results[1].per_class[name], abs=1e-12), name


def test_the_faster_library_is_taken_where_it_is_installed(monkeypatch):
    for installed, expected in ((BACKENDS, BACKENDS[0]), (BACKENDS[1:], BACKENDS[1])):
        monkeypatch.setattr(importlib.util, "find_spec", lambda name, found=installed: name in found or None)
        assert default_backend() == expected


def test_classes_in_another_order_than_their_ids():
    records, data, names, ids, _ = published()
    plain = coco_ap(records, names, ground_truth=data, category_ids=ids)
    for labels in (*records.labels, *records.gt_labels):
        labels[:] = len(ids) + 1 - labels
    turned = coco_ap(records, names[::-1], ground_truth=data, category_ids=ids[::-1])
    assert turned.per_class == plain.per_class and turned.stats == plain.stats


def test_empty_cases():
    assert coco_ap(Records(), ["a"]).mean_ap == -1
    records = Records()
    records.add({"boxes": [], "scores": [], "labels": []}, {"boxes": [[0, 0, 5, 5]], "labels": [1], "image_id": 1})
    result = coco_ap(records, ["a", "b"])
    assert result.mean_ap == 0 and result.per_class == {"a": (0.0, 0.0), "b": (-1.0, -1.0)}


def test_orphans_and_mixed_ids_do_not_crash():
    folder = real_data("coco_eval100")
    data = json.loads((folder / "gt_ignore_test.json").read_text())
    cleaned = clean_ground_truth(data)
    listed = {int(image["id"]) for image in data["images"]}
    assert all(row["image_id"] in listed and row["id"] > 0 for row in cleaned["annotations"]) and cleaned["annotations"]
    boxes = corners(cleaned["annotations"])
    records = Records()
    records.add(
        {"boxes": boxes, "scores": np.ones(len(boxes)), "labels": np.ones(len(boxes))},
        {"boxes": boxes, "labels": np.ones(len(boxes)), "image_id": next(iter(listed))},
    )
    assert coco_ap(records, ["person"], ground_truth=data, category_ids=[1]).mean_ap == pytest.approx(1.0)


def test_bad_input_is_named():
    records = perfect()
    with pytest.raises(DataError, match="backend must be one of 'faster_coco_eval', 'pycocotools', got 'coco'"):
        coco_ap(records, ["a"], backend="coco")
    with pytest.raises(DataError, match="needs category_ids"):
        coco_ap(records, ["a"], ground_truth={"images": [], "annotations": [], "categories": []})
    with pytest.raises(DataError, match="no image with id 1099511627776"):
        coco_ap(records, ["a"], ground_truth={"images": [], "annotations": [], "categories": []}, category_ids=[1])
    with pytest.raises(DataError, match=r"must be in 1 \.\. 0"):
        coco_ap(records, [])


def test_evaluator_of_a_coco_data_set_uses_its_file():
    dataset = open_dataset("coco", real_data("coco_cc_mini"))
    evaluator = Evaluator.of(dataset, "coco")
    assert evaluator.category_ids == dataset.category_ids and Path(evaluator.ground_truth).name == "instances.json"
    for index in range(len(dataset)):
        target = dataset.target(index)
        kept = ~target["ignore"]
        scores = np.ones(int(kept.sum()))
        evaluator.update(
            [{"boxes": target["boxes"][kept], "labels": target["labels"][kept], "scores": scores}], [target]
        )
    result = evaluator.summarize()
    assert result.mean_ap == pytest.approx(1.0) and result.images == 33
