"""`ssd.load(...).predict(...)`: every kind of source, and the forms of a result."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import ssd
from ssd.data import DataError
from ssd.inference.detector import Detector
from ssd.inference.result import Result


@pytest.fixture(scope="module")
def detector() -> Detector:
    torch.manual_seed(1)
    model = ssd.build_model("ssd_tiny", 3, image_size=64, width=4, levels=2).eval()
    return Detector(model, ("disc", "star"), True, {}, dtype=torch.float32)


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path: Path, pixels: np.ndarray) -> Path:
    (tmp_path / "more").mkdir()
    for name in ("a.png", "b.png", "more/c.png"):
        Image.fromarray(pixels).save(tmp_path / name)
    (tmp_path / "notes.txt").touch()
    return tmp_path


def same(left: object, right: object) -> bool:
    assert isinstance(left, Result) and isinstance(right, Result)
    return torch.equal(left.boxes, right.boxes) and torch.equal(left.labels, right.labels) and len(left) > 0


def test_load_reads_a_run_folder(tmp_path: Path, detector: Detector, pixels: np.ndarray) -> None:
    state = {"build_args": detector.model.build_args, "classes": ["disc", "star"], "model": detector.model.state_dict()}
    torch.save(state, tmp_path / "last.pt")
    loaded = ssd.load(tmp_path, device="cpu", dtype=torch.float32)
    assert loaded.classes == ("disc", "star")
    assert same(loaded.predict(pixels, score_threshold=0.3), detector.predict(pixels, score_threshold=0.3))


def test_predict_of_every_image_type_is_equal(detector: Detector, folder: Path, pixels: np.ndarray) -> None:
    planes = torch.from_numpy(pixels).permute(2, 0, 1)
    alpha = np.concatenate([pixels, np.zeros_like(pixels[:, :, :1])], axis=2)
    sources = [folder / "a.png", str(folder / "a.png"), Image.fromarray(pixels), planes, planes / 255, alpha]
    expected = detector.predict(pixels, score_threshold=0.3)
    for source in sources:
        assert same(detector.predict(source, score_threshold=0.3), expected)
    gray = Image.fromarray(pixels[:, :, 0])
    grays = [np.asarray(gray), np.asarray(gray)[:, :, None], planes[:1]]
    for source in grays:
        assert same(detector.predict(source, score_threshold=0.3), detector.predict(gray, score_threshold=0.3))


def test_predict_keeps_order_of_images(detector: Detector, folder: Path, pixels: np.ndarray) -> None:
    expected = [folder / "a.png", folder / "b.png", folder / "more" / "c.png"]
    for source in (folder, str(folder / "**" / "*.png"), (path for path in expected)):
        results = detector.predict(source, batch_size=2, progress=True)
        assert isinstance(results, Iterator)
        assert [result.file for result in results] == expected
    for batch in ([pixels, pixels], np.stack([pixels, pixels]), torch.zeros(2, 3, 40, 60)):
        results = detector.predict(batch)
        assert isinstance(results, list) and len(results) == 2
    assert detector.predict([]) == []


def test_predict_reads_generator_batch_by_batch(detector: Detector, pixels: np.ndarray) -> None:
    taken: list[int] = []

    def endless() -> Iterator[np.ndarray]:
        while True:
            taken.append(1)
            yield pixels

    results = detector.stream(endless(), batch_size=2)
    for _ in range(3):
        next(results)
    assert len(taken) <= 8


def test_predict_continues_after_unreadable_file(detector: Detector, folder: Path) -> None:
    (folder / "b.png").write_bytes(b"not an image")
    results = list(detector.stream(folder))
    assert [result.error is None for result in results] == [True, False, True]
    assert results[1].file == folder / "b.png" and results[1].size == (0, 0) and "b.png" in repr(results[1])
    with pytest.raises(ValueError, match=r"b\.png"):
        results[1].plot()
    with pytest.raises(DataError, match=r"b\.png: the file is not an image"):
        detector.predict(folder / "b.png")
    with pytest.raises(DataError, match=r"gone\.png: the file does not exist"):
        detector.predict("gone.png")


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (np.zeros((4, 4, 3)), r"image 0 of source: an array must be uint8 \[H, W\]"),
        ([np.zeros((4, 4), np.uint8), np.zeros((4, 4, 2), np.uint8)], "image 1 of source: an array must be uint8"),
        (torch.zeros(4, 4), r"image 0 of source: a tensor must be \[3, H, W\]"),
        (torch.full((3, 4, 4), 255.0), r"a floating tensor must be in 0\.\.1"),
        ([3], "the number of a camera must be the whole source"),
        ([3.0], "source must be an image, a path or an iterable of them, got float"),
        (b"\x89PNG", "got bytes; open the content of a file by PIL.Image.open"),
        ({"a.png": 1}, "source must be an image, a path or an iterable of them, got dict"),
        ("nothing*.png", "pattern nothing.*png matches no images"),
    ],
)
def test_predict_source_error_messages(detector: Detector, source: object, words: str) -> None:
    with pytest.raises((DataError, TypeError), match=words):
        list(detector.predict(source))  # type: ignore[arg-type]


def test_predict_filters_by_threshold_and_class(detector: Detector, pixels: np.ndarray) -> None:
    everything = detector.predict(pixels, score_threshold=0.0)
    assert isinstance(everything, Result) and set(everything.names) == {"disc", "star"}
    stars = detector.predict(pixels, score_threshold=0.0, classes=["star"])
    assert isinstance(stars, Result) and set(stars.names) == {"star"}
    assert len(stars) == everything.names.count("star")
    names: Any = (name for name in ["star"])
    assert len(detector.predict(pixels, score_threshold=0.0, classes=names, tile=np.int64(999))) == len(stars)  # type: ignore[arg-type]
    best = detector.predict(pixels, score_threshold=0.0, classes=["star"], max_detections=2)
    assert isinstance(best, Result) and torch.equal(best.boxes, stars.boxes[:2]) and best.names == ["star"] * 2
    with pytest.raises(ValueError, match="unknown class 'sta', did you mean 'star'"):
        detector.predict(pixels, classes=["sta"])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"score_threshold": 2}, r"score_threshold must be a number in 0\.\.1, got 2"),
        ({"score_threshold": "0.5"}, r"score_threshold must be a number in 0\.\.1, got '0\.5'"),
        ({"batch_size": 0}, "batch_size must be an integer of at least 1, got 0"),
        ({"batch_size": 2.5}, r"batch_size must be an integer of at least 1, got 2\.5"),
        ({"max_detections": 0}, "max_detections must be an integer of at least 1, got 0"),
        ({"classes": "star"}, "classes must be a list of names, got the string 'star'"),
        ({"tile": "64"}, "tile must be SIZE or SIZE, OVERLAP in pixels"),
        ({"tile": ()}, "tile must be SIZE or SIZE, OVERLAP in pixels"),
    ],
)
def test_predict_option_error_messages(
    detector: Detector, pixels: np.ndarray, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        detector.predict(pixels, **options)


@pytest.mark.parametrize(
    ("classes", "error", "words"),
    [
        (("disc",), ValueError, r"classes must have 2 names, those of the model without the background, got 1"),
        (("disc", "star", "box"), ValueError, "classes must have 2 names"),
        ("ds", TypeError, "classes must be a list of names, got 'ds'"),
        ({1: "disc", 2: "star"}, TypeError, "classes must be a list of names, got {1: 'disc'"),
    ],
)
def test_detector_with_other_classes_raises(detector: Detector, classes: Any, error: type, words: str) -> None:
    with pytest.raises(error, match=words):
        Detector(detector.model, classes)


def test_detector_of_another_model_raises() -> None:
    with pytest.raises(TypeError, match=r"model must be a model of ssd\.build_model, got Linear"):
        Detector(torch.nn.Linear(1, 1), ("disc",))  # type: ignore[arg-type]


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))])
def test_copy_of_a_used_detector_has_its_own_weights(
    detector: Detector, pixels: np.ndarray, clone: Callable[[Detector], Detector]
) -> None:
    # For worker processes that are spawned: pickling needs no engine, and one that has packed its weights is no obstacle.
    used = Detector(detector.model, ["disc", "star"], dtype=torch.float32)
    expected = used.predict(pixels, score_threshold=0.3)
    copied = clone(used)
    assert same(copied.predict(pixels, score_threshold=0.3), expected)
    with torch.no_grad():
        for weight in copied.model.parameters():
            weight.zero_()
    assert not torch.equal(copied.predict(pixels, score_threshold=0.3).boxes, expected.boxes)  # type: ignore[union-attr]
    assert same(used.predict(pixels, score_threshold=0.3), expected)


def test_predict_after_replacing_the_model(detector: Detector, pixels: np.ndarray) -> None:
    used = Detector(detector.model, ["disc", "star"], dtype=torch.float32)
    before = used.predict(pixels, score_threshold=0.3)
    used.model = ssd.build_model("ssd_tiny", 3, image_size=96, width=4, levels=2).eval()
    expected = Detector(used.model, ["disc", "star"], dtype=torch.float32).predict(pixels, score_threshold=0.3)
    assert same(used.predict(pixels, score_threshold=0.3), expected) and not same(before, expected)
    used.dtype = torch.bfloat16
    assert used.engine.dtype is torch.bfloat16


def test_load_on_unknown_device_raises() -> None:
    with pytest.raises(ValueError, match="device 'gpu': Expected one of cpu, cuda"):
        ssd.load("x", device="gpu")


def test_result_conversions(tmp_path: Path) -> None:
    image = torch.zeros(3, 40, 60, dtype=torch.uint8)
    boxes = torch.tensor([[1.0, 2.0, 11.0, 22.0], [30.0, 0.0, 60.0, 40.0]])
    result = Result(boxes, torch.tensor([2, 1]), torch.tensor([0.75, 0.5]), ("disc", "star"), image, Path("a.png"))
    assert len(result) == 2 and result.names == ["star", "disc"] and result.size == (40, 60)
    assert repr(result) == "Result(a.png, 60 x 40: 1 star, 1 disc)"
    star = {"label": "star", "score": 0.75, "box": [1.0, 2.0, 11.0, 22.0]}
    disc = {"label": "disc", "score": 0.5, "box": [30.0, 0.0, 60.0, 40.0]}
    assert json.loads(result.to_json()) == {"file": "a.png", "width": 60, "height": 40, "detections": [star, disc]}
    assert result.to_coco(7, [10, 20])[0] == {
        **{"image_id": 7, "category_id": 20, "bbox": [1.0, 2.0, 10.0, 20.0], "score": 0.75},
    }
    with pytest.raises(ValueError, match="category_ids must have an id for each of the 2 classes, got 1"):
        result.to_coco(7, [10])
    drawing = result.plot(tmp_path / "drawing.jpg")
    assert drawing.size == (60, 40) and (tmp_path / "drawing.jpg").stat().st_size > 0
    assert np.asarray(drawing).any()


def test_result_to_supervision(detector: Detector, pixels: np.ndarray) -> None:
    pytest.importorskip("supervision")
    result = detector.predict(pixels, score_threshold=0.3)
    assert isinstance(result, Result)
    detections = result.to_supervision()
    assert np.array_equal(detections.xyxy, result.boxes.numpy())
    assert list(detections.data["class_name"]) == result.names
