"""`ssd data check`: faults of readers and images, duplicates, wrong encodings, priors, exit code, JSON."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ssd.data import open_dataset
from ssd.data_check import objects
from ssd.data_check.duplicates import find_duplicates
from ssd.data_check.encodings import find_encoding_errors
from ssd.data_check.images import ImageFacts, difference_hash, examine_images, to_gray
from ssd.data_check.objects import check_priors, find_repeated_objects
from ssd.programs import data as data_program
from tests.ssd.small_folders import save_image, voc_object, write_coco, write_voc

SIZE = (200, 100)  # width, height


def check(*arguments: str | Path, code: int = 1) -> None:
    with pytest.raises(SystemExit) as end:
        data_program.main(["check", *map(str, arguments)])
    assert end.value.code == code


def save_soft_image(path: Path, seed: int, size: tuple[int, int] = SIZE, **options: object) -> Path:
    """Saves an image with soft structure, which survives compression."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 256, (6, 12, 3), dtype=np.uint8)
    Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC).save(path, **options)
    return path


def write_yolo(root: Path, lines: Callable[[np.ndarray], str], first_class: int = 0, split: str = "train") -> Path:
    """Writes 30 boxes x1 y1 x2 y2, as fractions, of classes cat and dog in the form that `lines` gives them."""
    root.mkdir(exist_ok=True)
    (root / "data.yaml").write_text(f"path: .\n{split}: images/{split}\nnames: [cat, dog]\n")
    low = np.random.default_rng(0).uniform(0.02, 0.6, (30, 2))
    high = low + np.random.default_rng(1).uniform(0.1, 0.38, (30, 2))
    text = "\n".join(f"{first_class + i % 2} {lines(box)}" for i, box in enumerate(np.hstack([low, high])))
    save_soft_image(root / "images" / split / "a.jpg", 1)
    (root / "labels" / split).mkdir(parents=True)
    (root / "labels" / split / "a.txt").write_text(text)
    return root


def numbers(*values: float) -> str:
    return " ".join(f"{value:.6f}" for value in values)


def center(box: np.ndarray) -> str:
    return numbers((box[0] + box[2]) / 2, (box[1] + box[3]) / 2, box[2] - box[0], box[3] - box[1])


@pytest.mark.parametrize(
    ("lines", "first_class", "kind"),
    [
        (center, 0, None),
        (center, 1, "classes off by one"),
        (lambda b: numbers(*b), 0, "xyxy instead of cxcywh"),
        (lambda b: numbers(b[0], b[1], b[2] - b[0], b[3] - b[1]), 0, "xywh instead of cxcywh"),
        (
            lambda b: numbers(100 * (b[0] + b[2]), 50 * (b[1] + b[3]), 200 * (b[2] - b[0]), 100 * (b[3] - b[1])),
            0,
            "pixels",
        ),
    ],
)
def test_check_detects_encoding_errors_in_yolo(
    tmp_path: Path, lines: Callable[[np.ndarray], str], first_class: int, kind: str | None
) -> None:
    dataset = open_dataset("yolo", write_yolo(tmp_path / "yolo", lines, first_class))
    found = [fault.kind for fault in find_encoding_errors(dataset, "it")]
    assert found == ([] if kind is None else ["pixels instead of fractions" if kind == "pixels" else kind])


def test_check_tells_percent_from_pixels(tmp_path: Path) -> None:
    root = write_yolo(tmp_path / "yolo", lambda b: center(100 * b))
    save_image(root / "images" / "train" / "a.jpg", (400, 300))
    (found,) = find_encoding_errors(open_dataset("yolo", root), "it")
    assert found.kind == "percent instead of fractions" and found.detail.endswith("; divide by 100")


def boxes(count: int = 30) -> list[list[int]]:
    """Boxes x1, y1, x2, y2 in an image of 60 x 40, right and left of its middle."""
    draw = np.random.default_rng(0)
    low = np.stack([draw.integers(1, 50, count), draw.integers(1, 30, count)], axis=1)
    return np.hstack([low, low + draw.integers(5, 10, (count, 2))]).tolist()


def coco_boxes(form: str) -> list[list[float]]:
    if form == "of a larger image":  # one touches the corner
        return [[50, 20, 15, 10]] * 30 + [[0, 0, 10, 10]]
    box = np.array(boxes(600), dtype=float)
    sides = box[:, 2:] - box[:, :2]
    first = box[:, :2] + sides / 2 if form == "cxcywh" else box[:, :2]
    return np.hstack([first, box[:, 2:] if form == "xyxy" else sides]).tolist()


@pytest.mark.parametrize(
    ("form", "shift", "kinds"),
    [
        ("xywh", 0, []),
        ("xyxy", 0, ["xyxy instead of xywh"]),
        ("cxcywh", 0, ["cxcywh instead of xywh"]),
        ("of a larger image", 0, []),
        ("xywh", -1, ["classes off by one"]),
    ],
)
def test_check_detects_encoding_errors_in_coco(tmp_path: Path, form: str, shift: int, kinds: list[str]) -> None:
    rows = [
        {"id": i, "image_id": 0, "category_id": (1, 44, 90)[i % 3] + shift, "bbox": b}
        for i, b in enumerate(coco_boxes(form))
    ]
    write_coco(tmp_path, rows, [{"id": 0, "file_name": "a.jpg", "width": 60, "height": 40}])
    found = list(find_encoding_errors(open_dataset("coco", tmp_path), "it"))
    assert [(fault.kind, fault.file) for fault in found] == [(kind, str(tmp_path / "instances.json")) for kind in kinds]


@pytest.mark.parametrize("form", ["right", "xywh", "fractions"])
def test_check_detects_encoding_errors_in_voc(tmp_path: Path, form: str) -> None:
    def object_of(x1: int, y1: int, x2: int, y2: int) -> str:
        box = {
            "right": (x1, y1, x2, y2),
            "xywh": (x1, y1, x2 - x1, y2 - y1),
            "fractions": (x1 / 60, y1 / 40, x2 / 60, y2 / 40),
        }
        return voc_object(box=box[form])

    write_voc(
        tmp_path, {"a": [object_of(*box) for box in boxes()] + [voc_object(box=(1, 1, 20, 12))] * (form == "xywh")}
    )
    found = [fault.kind for fault in find_encoding_errors(open_dataset("voc", tmp_path, coordinates="as_is"), "it")]
    assert found == {"right": [], "xywh": ["xywh instead of xyxy"], "fractions": ["fractions instead of pixels"]}[form]


def facts_of(root: Path, split: str) -> list[ImageFacts]:
    return list(examine_images(open_dataset("yolo", root, split), 2))


def test_check_finds_duplicates_within_and_across_splits(tmp_path: Path) -> None:
    (tmp_path / "data.yaml").write_text("path: .\ntrain: images/train\nval: images/val\nnames: [cat]\n")
    train, val = tmp_path / "images/train", tmp_path / "images/val"
    for seed in range(12):
        save_soft_image(train / f"{seed:02d}.png", seed)
    shutil.copy(train / "00.png", train / "copy.png")
    val.mkdir()
    shutil.copy(train / "01.png", val / "leak.png")
    with Image.open(train / "02.png") as image:
        image.resize((300, 150)).save(val / "near.jpg", quality=60)
        image.point(lambda level: level * 0.8).save(train / "zdark.png")
        Image.new("RGB", SIZE, "white").save(train / "flat1.png")
        Image.new("RGB", SIZE, "gray").save(train / "flat2.png")
    facts = {split: facts_of(tmp_path, split) for split in ("train", "val")}
    found = [duplicate.fault for duplicate in find_duplicates(facts)]
    assert {(Path(fault.file).name, fault.kind) for fault in found} == {
        ("copy.png", "duplicate image"),
        ("leak.png", "image in two splits"),
        ("near.jpg", "near-duplicate in two splits"),
        ("zdark.png", "near-duplicate"),
    }
    assert any("02.png, in train; this one is in val" in fault.detail for fault in found)


def test_perceptual_hash_depends_on_content_not_size() -> None:
    first, other = (
        torch.from_numpy(np.kron(np.random.default_rng(s).integers(0, 256, (3, 8, 9)), np.ones((1, 20, 20))))
        for s in (0, 1)
    )
    first, other, half = to_gray(first), to_gray(other), to_gray(first[:, ::2, ::2])
    assert (difference_hash(first) ^ difference_hash(half)).bit_count() <= 1
    assert (difference_hash(first) ^ difference_hash(other)).bit_count() > 10


def test_check_names_objects_annotated_twice(tmp_path: Path) -> None:
    objects = [voc_object(), voc_object("dog"), voc_object(), voc_object(box=(40, 6, 55, 20))]
    write_voc(tmp_path, {"a": objects})
    (fault,) = find_repeated_objects(open_dataset("voc", tmp_path))
    assert fault.kind == "object annotated twice" and fault.detail.startswith("cat at x 10 .. 30")


def test_check_matches_priors_with_objects(tmp_path: Path) -> None:
    write_voc(tmp_path, {"a": [voc_object(box=(10, 8, 50, 34)), voc_object(box=(10, 10, 12, 12))]})
    dataset = open_dataset("voc", tmp_path)
    report = check_priors([dataset], "ssd_tiny", None)
    assert report is not None
    assert sum(count for _, _, count in report.by_size) == 2 and sum(found for _, found, _ in report.by_size) == 1
    assert [unmatched.fault.detail[:16] for unmatched in report.unmatched] == ["cat at x 9 .. 12"]
    assert report.better_sizes and "prior sizes" in str(report)
    assert report.as_dict()["by_class"] == {"cat": {"matched": 1, "objects": 2}}


def test_check_suggests_prior_sizes_only_if_they_match_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_voc(tmp_path, {"a": [voc_object(box=(10, 8, 50, 34)), voc_object(box=(10, 10, 12, 12))]})
    monkeypatch.setattr(objects, "fit_prior_sizes", lambda *_, **__: (1.0, 1.1, 1.2, 1.3, 1.4))
    report = check_priors([open_dataset("voc", tmp_path)], "ssd_tiny", None)
    assert report is not None and report.coverage.recall == 0.5
    assert report.better_sizes == () and "prior sizes" not in str(report)


def test_check_ends_where_boxes_are_in_fractions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # Read as pixels they are far smaller than any prior can be.
    fractions = [voc_object(box=(x1 / 60, y1 / 40, x2 / 60, y2 / 40)) for x1, y1, x2, y2 in boxes()]
    write_voc(tmp_path, {"a": fractions})
    check(tmp_path, "--dataset-option", "coordinates=as_is", code=1)
    out = capsys.readouterr().out
    assert "problem: fractions instead of pixels (1)" in out and "priors match 0 of 30 objects" in out


def test_check_of_valid_data_set_passes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_voc(tmp_path, {"a": [voc_object(box=(1, 1, 40, 40))]})
    check(tmp_path, "--no-priors", code=0)
    out = capsys.readouterr().out
    assert "1 of 1 images decoded" in out and "0 problems, 0 warnings" in out


def test_check_counts_faults_and_writes_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "data"
    names = {
        "a": [voc_object(box=(5, 5, 5, 9)), voc_object()],
        "b": [voc_object()],
        "c": [voc_object()],
        "d": [voc_object()],
    }
    write_voc(root, names)
    write_voc(root, {"e": [voc_object()]}, "val")
    (root / "JPEGImages" / "b.jpg").write_bytes(b"no image")
    save_image(root / "JPEGImages" / "c.jpg", (61, 40))
    (root / "Annotations" / "d.xml").write_text("<annotation>")
    exif = Image.Exif()
    exif[0x0112] = 3
    save_soft_image(root / "JPEGImages" / "e.jpg", 5, (60, 40), exif=exif)
    check(root, "--json", tmp_path / "found.json", "-j", "1")
    found = json.loads((tmp_path / "found.json").read_text())
    kinds = Counter(row["kind"] for row in found["findings"] if row["severity"] == "problem")
    wanted = ("annotation malformed", "box without area", "image of another size", "image unreadable")
    assert kinds == dict.fromkeys(wanted, 1) and not found["well"]
    (row,) = (row for row in found["findings"] if row["kind"] == "box without area")
    assert row["file"].endswith("a.xml") and row["object_index"] == 0
    assert found["splits"]["train"]["images_unreadable"] == 2 and found["splits"]["train"]["images_listed"] == 4
    assert found["splits"]["val"]["images_with_exif_orientation"] == 1
    out = capsys.readouterr().out
    assert "1 of 3 images decoded" in out and "1 of 1 images decoded, 1 with an EXIF orientation" in out
    assert "problem: box without area (1)\n" in out and "4 problems" in out


def test_check_of_files_without_splits_runs_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"id": 1, "image_id": 3_000_000_000, "category_id": 1, "bbox": [1, 1, 30, 30]}]
    check(write_coco(tmp_path, rows), "--no-priors", code=0)
    out = capsys.readouterr().out
    assert "train, val, test have the same images" in out and "image in two splits" not in out
    assert "classes without objects (bottle, brush)" in out


@pytest.mark.parametrize("count", [1, 40])
def test_check_writes_figures(tmp_path: Path, count: int) -> None:
    root = tmp_path / "data"
    objects = [voc_object(f"$class {number}", (10, 10, 12, 12)) for number in range(count)]
    write_voc(root, {"a": objects, "b": objects})
    shutil.copy(root / "JPEGImages" / "a.jpg", root / "JPEGImages" / "b.jpg")
    check(root, "--pictures", tmp_path / "out", code=0)
    for name in ("labels.png", "unmatched.png", "duplicates.png"):
        with Image.open(tmp_path / "out" / name) as image:
            assert image.width > 300


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere: there is no such folder or file"),
        ([".", "--dataset", "vco"], "invalid choice: 'vco'"),
        ([".", "--dataset", "voc", "--image-size", "0"], "--image-size"),
        ([".", "-j", "0"], "--workers must be at least 1"),
    ],
)
def test_check_argument_errors(
    arguments: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        data_program.parse_args(["check", *arguments])
    assert end.value.code == 2 and message in capsys.readouterr().err


def test_check_of_missing_split_raises(tmp_path: Path) -> None:
    write_voc(tmp_path, {"a": [voc_object()]})
    with pytest.raises(SystemExit, match="no list of the split 'test'"):
        data_program.main(["check", str(tmp_path), "--splits", "test"])
