"""Tests VOC average precision: published values, literal examples, the loop of the devkit, and error kinds."""

import json
from collections import namedtuple

import numpy as np
import pytest
import torch

from ssd.data import DataError, collate
from ssd.evaluate import Evaluator, Records, average_precision, voc_ap
from ssd.evaluate.records import box_iou
from tests.ssd.real_data import real_data


def found(boxes, scores, labels):
    return {"boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4), "scores": scores, "labels": labels}


def truth(boxes, labels, image_id=0, ignore=None):
    return {**found(boxes, None, labels), "image_id": image_id, "ignore": ignore or [False] * len(labels)}


def toy() -> Records:
    folder, records = real_data("voc_eval_toy"), Records()

    def rows(path, columns):
        table = [line.split()[1:] for line in path.read_text().splitlines() if line.strip()]
        return np.array(table, dtype=float).reshape(-1, columns)

    def corners(boxes):
        return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)

    for index, path in enumerate(sorted((folder / "gts").glob("*.txt"))):
        objects, detections = rows(path, 4), rows(folder / "dets" / path.name, 5)
        ones = np.ones(len(detections), dtype=int)
        records.add(
            {"boxes": corners(detections[:, 1:]), "scores": detections[:, 0], "labels": ones},
            {"boxes": corners(objects), "labels": np.ones(len(objects), dtype=int), "image_id": index},
        )
    return records


def with_steps_of_floats(recall, precision) -> float:
    """The rule of the evaluator that published the values: a recall of exactly 0.6 stays below its step, 6 * 0.1."""
    return float(np.mean([max(precision[recall >= step], default=0.0) for step in np.linspace(0, 1, 11)]))


@pytest.mark.parametrize("kind", ["all_point", "eleven_point", "all_point_without_plus1", "eleven_point_without_plus1"])
def test_voc_ap_equals_published_values(kind):
    expected = json.loads((real_data("voc_eval_toy") / "expected.json").read_text())[kind]
    assert len(expected) == 4
    method = "area" if kind.startswith("all") else "11point"
    for threshold, value in expected.items():
        result = voc_ap(
            toy(), ["object"], iou_threshold=float(threshold), method=method, plus_one="without" not in kind
        )
        (row,) = result.classes
        ap = result.mean_ap if method == "area" else with_steps_of_floats(row.recall, row.precision)
        # Some of the published values are cut off after ten digits, not rounded.
        assert abs(ap - value) < 1e-10, threshold
        assert method == "area" or result.mean_ap == pytest.approx(value, abs=1e-10) or 0.6 in row.recall


def test_voc_ap_literal_example():
    # By descending score: correct, duplicate of it, correct, background; the third object is missed.
    records = Records()
    records.add(
        found([[0, 0, 10, 10], [0, 0, 10, 9], [20, 20, 30, 30], [50, 50, 60, 60]], [0.9, 0.8, 0.7, 0.6], [1, 1, 1, 1]),
        truth([[0, 0, 10, 10], [20, 20, 30, 30], [40, 0, 50, 10]], [1, 1, 1]),
    )
    (cell,) = voc_ap(records, ["cell"]).classes
    assert cell.precision.tolist() == [1, 1 / 2, 2 / 3, 2 / 4] and cell.recall.tolist() == [1 / 3, 1 / 3, 2 / 3, 2 / 3]
    assert cell.ap == pytest.approx(1 / 3 + 1 / 3 * 2 / 3)
    assert (cell.score, cell.tp, cell.fp, cell.missed) == (0.7, 2, 1, 1)
    assert cell.errors == {"localization": 0, "duplicate": 1, "confusion": 0, "background": 0}
    assert cell.gains["duplicate"] == pytest.approx(2 / 3 - cell.ap) and cell.gains["background"] == 0
    assert cell.gains["missed"] == pytest.approx((1 + 2 / 3) / 2 - cell.ap)
    eleven = voc_ap(records, ["cell"], method="11point").mean_ap
    assert eleven == pytest.approx((4 * 1 + 3 * 2 / 3) / 11)
    low = voc_ap(records, ["cell"], score=0.0).classes[0]
    assert (low.tp, low.fp, low.missed) == (2, 2, 1) and low.errors["background"] == 1


def test_voc_11_point_ap_at_exact_recall_step():
    right = np.array([0, 1, 1, 0, 1, 0, 1, 0, 0, 0, 1], dtype=bool)  # that of Caffe's TestComputeAP
    assert average_precision(right, 5, "11point") == pytest.approx(0.598662, abs=1e-6)
    for tenths in range(11):
        assert average_precision(np.ones(tenths, dtype=bool), 10, "11point") == pytest.approx(
            (tenths + 1) / 11 if tenths else 0
        )


def test_error_breakdown_names_main_error():
    records = Records()
    records.add(found([[50, 50, 60, 60]] * 3, [0.9, 0.8, 0.7], [1] * 3), truth([[0, 0, 10, 10]] * 2, [1, 1]))
    (cell,) = voc_ap(records, ["cell"]).classes
    assert cell.missed == 2 and cell.limit() == "missed +1.000"
    records.add(found([[0, 0, 10, 10]], [0.1], [1]), truth([[0, 0, 10, 10]], [1], image_id=1))
    records.add(found([[50, 50, 60, 60]] * 9000, np.linspace(0.2, 0.6, 9000), [1] * 9000), truth([], [], image_id=2))
    (cell,) = voc_ap(records, ["cell"]).classes
    assert 0 < cell.ap < 0.0005 and "background +0.333" in cell.limit()


def test_error_kinds():
    records = Records()
    boxes = [[0, 0, 10, 10], [0, 0, 10, 4], [20, 20, 30, 30], [70, 70, 80, 80], [0, 0, 10, 9]]
    records.add(
        found(boxes, [0.9, 0.85, 0.8, 0.7, 0.6], [1, 1, 1, 1, 2]),
        truth([[0, 0, 10, 10], [20, 20, 30, 30]], [1, 2]),
    )
    cat, dog = voc_ap(records, ["cat", "dog"], score=0.0).classes
    assert cat.errors == {"localization": 1, "duplicate": 0, "confusion": 1, "background": 1} and cat.tp == 1
    assert dog.errors == {"localization": 0, "duplicate": 0, "confusion": 1, "background": 0} and dog.missed == 1
    assert dog.ap == 0 and dog.gains["missed"] == 1, "where none is found, nothing else can raise AP"


def test_error_breakdown_gain_of_localization():
    records = Records()
    records.add(found([[0, 0, 10, 4]], [0.9], [1]), truth([[0, 0, 10, 10]], [1]))
    (cell,) = voc_ap(records, ["cell"]).classes
    assert cell.ap == 0 and cell.gains["localization"] == 1 and cell.gains["missed"] == 0
    assert "localization +1.000" in cell.limit()


def test_voc_ignored_objects_are_neither_true_nor_false_positives():
    records = Records()
    records.add(
        found([[0, 0, 10, 10], [0, 0, 10, 9.5], [20, 20, 30, 30]], [0.9, 0.8, 0.7], [1, 1, 1]),
        truth([[0, 0, 10, 10], [20, 20, 30, 30]], [1, 1], ignore=[True, False]),
    )
    (cell,) = voc_ap(records, ["cell"]).classes
    assert cell.ap == 1 and cell.objects == 1 and cell.ignored == 1 and (cell.tp, cell.fp, cell.missed) == (1, 0, 0)


def test_voc_score_ties_and_iou_equal_to_threshold():
    records = Records()
    records.add(found([[0, 0, 10, 10]], [0.5], [1]), truth([[0, 0, 10, 5]], [1]))  # IoU exactly 0.5
    records.add(found([[0, 0, 9, 9]], [0.5], [1]), truth([], [], image_id=1))
    (cell,) = voc_ap(records, ["cell"]).classes
    assert cell.ap == 1, "IoU >= threshold is correct, and ties keep the order of the images"
    assert (cell.tp, cell.fp) == (1, 1), "no threshold separates equal scores"


def test_voc_empty_inputs():
    nothing = voc_ap(Records(), ["a", "b"])
    assert np.isnan(nothing.mean_ap) and nothing.as_dict()["mean_ap"] is None
    json.dumps(nothing.as_dict(), allow_nan=False)
    records = Records()
    records.add(found([], [], []), truth([[0, 0, 5, 5]], [1]))
    records.add(found([[0, 0, 5, 5]], [0.5], [2]), truth([], [], image_id=1))
    result = voc_ap(records, ["a", "b"])
    assert result.classes[0].ap == 0 and result.classes[0].missed == 1
    assert np.isnan(result.classes[1].ap) and result.classes[1].fp == 1 and result.mean_ap == 0
    assert "a" in str(result) and np.isnan(average_precision(np.ones(2, dtype=bool), 0))


def test_voc_bad_input_error_messages():
    records = Records()
    with pytest.raises(DataError, match="scores of image_id 4 contain NaN"):
        records.add(found([[0, 0, 5, 5]], [float("nan")], [1]), truth([], [], image_id=4))
    with pytest.raises(DataError, match="1 boxes, 2 scores, 1 labels"):
        records.add(found([[0, 0, 5, 5]], [0.1, 0.2], [1]), truth([], []))
    with pytest.raises(DataError, match=r"boxes must have shape \[N, 4\], got \[2, 2\]"):
        records.add({"boxes": np.zeros((2, 2)), "scores": [0], "labels": [1]}, truth([], []))
    records.add(found([[float("nan"), 0, 5, 5]], [0.5], [3]), truth([[0, 0, 5, 5]], [1]))
    with pytest.raises(DataError, match="image_id 0 was evaluated before"):
        records.add(found([], [], []), truth([], []))
    with pytest.raises(DataError, match=r"labels of the detections must be in 1 .. 2, got 3 .. 3"):
        voc_ap(records, ["a", "b"])
    assert voc_ap(records, ["a", "b", "c"]).classes[2].fp == 1  # a box that is NaN overlaps nothing
    with pytest.raises(DataError, match="method must be one of"):
        voc_ap(records, ["a", "b", "c"], method="area07")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scores": [[0.5]]}, r"scores must have shape \[N\], got \[1, 1\]"),
        ({"labels": [[1]]}, r"labels must have shape \[N\], got \[1, 1\]"),
        ({"labels": ["cat"]}, "must be numbers, got .*cat"),
        ({"labels": [float("inf")]}, "labels must be integers, got inf"),
        ({"scores": [1j]}, "must be numbers, got"),
        ({"boxes": None}, "must be numbers, got None"),
        ({"image_id": np.array([1, 2])}, r"must have an image_id, an integer, got \[1, 2\]"),
    ],
)
def test_value_of_wrong_kind_raises_when_its_image_is_added(change, message):
    detections, target = found([[0, 0, 5, 5]], [0.5], [1]), truth([[0, 0, 5, 5]], [1])
    with pytest.raises(DataError, match=message):
        Records().add({**detections, **change}, {**target, **{k: v for k, v in change.items() if k == "image_id"}})
    with pytest.raises(
        DataError, match=r"the detections of image_id 0 must have boxes, scores, labels; scores is miss"
    ):
        Records().add({"boxes": []}, target)


def devkit(records: Records, label: int, threshold: float) -> list[bool]:
    """The loop of the devkit over detections."""
    rows = [(s, i, j) for i, scores in enumerate(records.scores) for j, s in enumerate(scores)]
    rows = [row for row in rows if records.labels[row[1]][row[2]] == label]
    taken, right = set(), []
    for _, i, j in sorted(rows, key=lambda row: -row[0]):
        best, chosen = -np.inf, None
        for g, box in enumerate(records.gt_boxes[i]):
            if records.gt_labels[i][g] == label:
                overlap = box_iou(records.boxes[i][j][None], box[None])[0, 0]
                if overlap > best:
                    best, chosen = overlap, g
        if best >= threshold:
            if not records.gt_ignore[i][chosen]:
                right.append((i, chosen) not in taken)
                taken.add((i, chosen))
        else:
            right.append(False)
    return right


def random_records(seed: int) -> Records:
    random, records = np.random.default_rng(seed), Records()
    for image_id in range(12):
        corner, side = random.integers(0, 12, (8, 2)), random.integers(1, 8, (8, 2))
        boxes = np.concatenate([corner, corner + side], axis=1)
        count, objects = random.integers(0, 9), random.integers(0, 5)
        detections = {"boxes": boxes[::-1][:count], "scores": random.integers(0, 5, count) / 4}
        labels = random.integers(1, 3, count)
        target = {"boxes": boxes[:objects], "labels": random.integers(1, 3, objects), "image_id": image_id}
        records.add({**detections, "labels": labels}, {**target, "ignore": random.random(objects) < 0.2})
    return records


@pytest.mark.parametrize("seed", range(8))
def test_voc_ap_equals_devkit_loop(seed):
    records = random_records(seed)
    for threshold in (0.3, 0.5, 0.75):
        result = voc_ap(records, ["a", "b"], iou_threshold=threshold)
        for label, row in enumerate(result.classes, start=1):
            right = np.array(devkit(records, label, threshold), dtype=bool)
            assert row.precision.tolist() == (np.cumsum(right) / np.arange(1, len(right) + 1)).tolist()
            assert row.tp + row.fp == int((row.scores >= row.score).sum()) and sum(row.errors.values()) == row.fp
            assert row.tp + row.missed == row.objects and min(row.gains.values()) >= 0


def test_evaluator_takes_padded_batches_and_merges():
    Detections = namedtuple("Detections", "boxes scores labels counts")
    samples = []
    for image_id in range(2):
        target = {"boxes": torch.tensor([[10.0, 10.0, 30.0, 40.0]]), "labels": torch.tensor([1]), "size": (200, 100)}
        target |= {"ignore": torch.tensor([False]), "image_id": image_id}
        samples.append((torch.zeros(3, 50, 50, dtype=torch.uint8), target))
    boxes = torch.tensor([[[0.2, 0.2, 0.6, 0.8], [9.0, 9.0, 9.0, 9.0]]] * 2)
    padded = Detections(boxes, torch.tensor([[0.9, 0.0]] * 2), torch.tensor([[1, -1]] * 2), torch.tensor([1, 0]))
    evaluator = Evaluator(["cell"])
    evaluator.update_batch(padded, collate(samples))
    assert np.allclose(evaluator.records.boxes[0], [[20, 40, 60, 160]]) and len(evaluator.records.boxes[1]) == 0
    assert evaluator.summarize().mean_ap == 0.5
    other = Evaluator(["cell"])
    other.update([found([[0, 0, 5, 5]], [0.95], [1])], [truth([[0, 0, 5, 5]], [1], image_id=2)])
    evaluator.records.merge(other.records)
    assert evaluator.summarize().mean_ap == pytest.approx(2 / 3)
    with pytest.raises(DataError, match="metric must be one of 'voc', 'voc07', 'coco', got 'map'"):
        Evaluator(["cell"], "map")
