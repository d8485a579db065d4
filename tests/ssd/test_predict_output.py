"""The formats that `ssd predict --save` writes: read again, they hold the same detections."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from PIL import Image

from ssd.data import DetectionDataset, open_dataset
from ssd.inference.output import Output
from ssd.inference.result import Result
from ssd.programs.predict import main
from ssd.programs.predict_arguments import parse_args

CLASSES = ("disc", 'star, "big"')
FORMATS = ("images", "csv", "coco", "yolo", "voc")


@pytest.fixture
def results(tmp_path: Path) -> list[Result]:
    """Two images of one stem in two folders, one without detections, and one that could not be read."""
    boxes = torch.tensor([[1.0, 2.0, 11.0, 22.0], [30.25, 0.0, 60.0, 40.0]])
    made = []
    for number, name in enumerate(("x/a.png", "y/a.jpg", "empty.png")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (60, 40)).save(tmp_path / name)
        found = boxes[: 2 - number]
        labels, scores = torch.tensor([2, 1])[: len(found)], torch.tensor([0.75, 0.5])[: len(found)]
        image = torch.zeros(3, 40, 60, dtype=torch.uint8)
        made.append(Result(found, labels, scores, CLASSES, image, tmp_path / name))
    nothing = torch.zeros(0)
    made.append(Result(nothing.view(0, 4), nothing.long(), nothing, CLASSES, None, tmp_path / "b.png", "it is empty"))
    return made


def write(folder: Path, results: list[Result], formats: tuple[str, ...] = FORMATS) -> list[str | None]:
    output = Output(folder, formats, CLASSES, len(results))
    errors = [output.add(number, result) for number, result in enumerate(results, start=1)]
    output.close(True)
    return errors


def objects(dataset: DetectionDataset) -> list[tuple[str, list[float]]]:
    found = []
    for index in range(len(dataset)):
        target = dataset.target(index)
        boxes = target["boxes"]
        names = [dataset.classes[label - 1] for label in target["labels"].tolist()]
        found += [(name, [round(x, 1) for x in box]) for name, box in zip(names, boxes.tolist(), strict=True)]
    return sorted(found)


def test_predict_output_lists_files_and_reports_unreadable_images(tmp_path: Path, results: list[Result]) -> None:
    assert write(tmp_path / "out", results) == [None, None, None, "it is empty"]
    names = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert names == {
        *("1-a.png", "2-a.jpg", "3-empty.png", "detections.json", "detections.csv", "coco.json", "yolo/data.yaml"),
        *(f"yolo/labels/{stem}.txt" for stem in ("1-a", "2-a", "empty")),
        *(f"voc/Annotations/{stem}.xml" for stem in ("1-a", "2-a", "empty")),
    }
    entries = json.loads((tmp_path / "out" / "detections.json").read_text())
    assert [len(entry["detections"]) for entry in entries] == [2, 1, 0]


@pytest.mark.parametrize("name", ["csv", "coco", "yolo", "voc"])
def test_predict_output_is_read_as_a_data_set(name: str, tmp_path: Path, results: list[Result]) -> None:
    out, data = tmp_path / "out", tmp_path / "data"
    write(out, results[:1], (name,))
    (data / "images").mkdir(parents=True)
    Image.new("RGB", (60, 40)).save(data / "images" / "a.png")
    if name == "csv":
        shutil.copy(out / "detections.csv", data / "train.csv")
        source = data / "train.csv"
    elif name == "coco":
        source = data
        (data / "annotations").mkdir()
        coco = json.loads((out / "coco.json").read_text())
        coco["images"][0]["file_name"] = "a.png"
        (data / "annotations" / "instances_train.json").write_text(json.dumps(coco))
    elif name == "yolo":
        source = data
        shutil.copytree(out / "yolo", data, dirs_exist_ok=True)
    else:
        source = data
        shutil.copytree(out / "voc", data, dirs_exist_ok=True)
    dataset = open_dataset(name, source, "train" if name in ("coco", "yolo") else "all")
    assert objects(dataset) == sorted([(CLASSES[1], [1, 2, 11, 22]), (CLASSES[0], [30.2, 0, 60, 40])])


def test_predict_overwrite_removes_only_earlier_results(tmp_path: Path, results: list[Result]) -> None:
    write(tmp_path / "out", results)
    (tmp_path / "out" / "mine.txt").touch()
    write(tmp_path / "out", results[:1], ())
    assert sorted(path.name for path in (tmp_path / "out").rglob("*") if path.is_file()) == [
        "detections.json",
        "mine.txt",
    ]


@pytest.mark.parametrize("name", ["coco.json", "detections.csv", "detections.json", "yolo", "voc", "3-b.jpg"])
def test_predict_overwrite_rejects_a_folder_with_files_of_the_user(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # They were replaced, and the label files in yolo and voc deleted.
    for file in ("b.jpg", "a.jpg", name):
        (tmp_path / file).write_text("of the user")
    with pytest.raises(SystemExit):
        parse_args([".", str(tmp_path), "--output-dir", str(tmp_path), "--overwrite"], "")
    error = f"--overwrite: {tmp_path / name} is not a result of an earlier command; use another --output-dir"
    assert error in capsys.readouterr().err


def test_predict_overwrite_accepts_earlier_results_among_files_of_the_user(
    tmp_path: Path, results: list[Result]
) -> None:
    write(tmp_path / "x", results[:1])  # beside its image
    args = parse_args([".", str(tmp_path / "x"), "--output-dir", str(tmp_path / "x"), "--overwrite"], "")
    assert [Path(file).name for file in args.files] == ["a.png"] and args.output_dir == tmp_path / "x"


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--save", "jsno"], "--save: unknown format 'jsno'. Known: coco, csv, images, voc, yolo"),
        (["--save", "yoloo"], "did you mean 'yolo'"),
        (["--nms-threshold", "2"], "--nms-threshold must be in 0..1, got 2"),
        (["--max-detections", "0"], "--max-detections must be at least 1, got 0"),
    ],
)
def test_predict_rejects_invalid_flags(flags: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([".", "README.md", *flags])
    assert words in capsys.readouterr().err


def test_non_utf8_file_names_are_escaped(tmp_path: Path) -> None:
    box, image = torch.tensor([[1.0, 2.0, 11.0, 22.0]]), torch.zeros(3, 40, 60, dtype=torch.uint8)
    file = tmp_path / os.fsdecode(b"\xe9.png")
    result = Result(box, torch.tensor([1]), torch.tensor([0.5]), ("a\x1b[2Jb",), image, file)
    output = Output(tmp_path / "out", FORMATS, result.classes, 1)
    assert output.add(1, result) is None
    output.close(True)
    assert "\\udce9.png," in (tmp_path / "out/detections.csv").read_text(encoding="utf-8")
    assert json.loads((tmp_path / "out/coco.json").read_bytes())["images"][0]["file_name"].endswith(file.name)
    (path,) = (tmp_path / "out/voc/Annotations").iterdir()
    tree = ElementTree.parse(path)
    assert tree.findtext("filename") == r"\udce9.png" and tree.findtext("object/name") == r"a\x1b[2Jb"


def test_files_of_images_of_one_stem_have_distinct_names(tmp_path: Path, results: list[Result]) -> None:
    named = [replace(results[0], file=tmp_path / name) for name in ("x/a.png", "y/a.jpg", "2-a.png", "z/2-A.png")]
    write(tmp_path / "out", named, ("yolo", "voc"))
    for folder in ("yolo/labels", "voc/Annotations"):
        found = sorted(path.stem for path in (tmp_path / "out" / folder).iterdir())
        assert found == ["1-a", "2-2-a", "3-2-a", "4-2-A"]
