"""Tests detection of the format of a folder, and training on each format."""

import json

import pytest

from ssd.common.errors import ConfigError
from ssd.config import TrainConfig
from ssd.config.dataset_format import find_formats, resolve_dataset
from ssd.data import open_dataset
from ssd.engine.loop import run
from ssd.programs.train_arguments import parse_args
from tests.ssd.real_data import real_data
from tests.ssd.small_folders import save_image, voc_object, write_coco, write_voc
from tests.ssd.test_data_csv import HEADER, write_csv
from tests.ssd.test_data_yolo import SQUARE, write_yolo


def write_coco_split(root):
    write_coco(root, [{"id": 1, "image_id": 3_000_000_000, "category_id": 1, "bbox": [1, 1, 20, 20]}])
    return root


WRITERS = {
    "voc": lambda root: write_voc(root, {"a": [voc_object()]}),
    "coco": write_coco_split,
    "yolo": lambda root: write_yolo(root, {"a": SQUARE}),
    "csv": lambda root: write_csv(root, HEADER, "a.jpg,10,5,30,20,dog"),
}


@pytest.mark.parametrize("name", WRITERS)
def test_format_is_detected_and_printed(tmp_path, name, capsys):
    config = TrainConfig(data_path=str(WRITERS[name](tmp_path)))
    resolve_dataset(config)
    assert config.dataset == name and f"data set: {name}, because of {tmp_path}" in capsys.readouterr().out
    assert len(open_dataset(config.dataset, config.data_path)) >= 1
    named = TrainConfig(dataset="voc", data_path=str(tmp_path))
    resolve_dataset(named)
    assert named.dataset == "voc", "the flag of the user takes precedence"


@pytest.mark.parametrize(
    ("folder", "name"), [("bccd", "voc"), ("voc2007_mini", "voc"), ("coco_cc_mini", "coco"), ("coco_eval100", "coco")]
)
def test_format_of_real_folders(folder, name):
    assert list(find_formats(real_data(folder))) == [name]


def test_format_of_devkit_and_of_several_formats(tmp_path, capsys):
    write_voc(tmp_path / "VOCdevkit" / "VOC2012", {"a": [voc_object()]})
    (tmp_path / "notes.csv").write_text("x\n")
    config = TrainConfig(data_path=str(tmp_path))
    resolve_dataset(config)
    assert config.dataset == "voc"
    assert f"it could also be csv ({tmp_path / 'notes.csv'}): --dataset csv" in capsys.readouterr().out


def test_format_default_is_shapes_and_unknown_raises(tmp_path):
    config = TrainConfig()
    assert config.augmentation == "hflip"
    resolve_dataset(config)
    assert config.dataset == "shapes" and config.augmentation == "hflip"
    (tmp_path / "package.json").write_text('{"name": "x"}')
    (tmp_path / "compose.yaml").write_text("services:\n")
    with pytest.raises(ConfigError, match=r"none of the known formats: .*voc .*coco .*yolo .*csv"):
        resolve_dataset(TrainConfig(data_path=str(tmp_path)))
    assert parse_args(["--dataset", "my_package.data:Cells"]).dataset == "my_package.data:Cells"


@pytest.mark.parametrize("name", ["yolo", "csv"])
def test_training_detects_the_format(tmp_path, name, capsys):
    data = tmp_path / "data"
    data.mkdir()
    if name == "yolo":
        write_yolo(data, {"a": SQUARE, "b": "1 0.5 0.5 0.9 0.9"})
    else:
        lines = (HEADER, "a.jpg,15,10,45,30,cat", "b.jpg,3,2,57,38,dog")
        write_csv(data, *lines)
        write_csv(data, *lines[:2], name="val.csv")  # one class only: the others come from the training split
    config = TrainConfig(
        data_path=str(data),
        epochs=1,
        batch_size=2,
        workers=0,
        image_size=96,
        device="cpu",
        pictures=0,
        output_dir=str(tmp_path / "run"),
    )
    run(config)
    assert f"data set: {name}" in capsys.readouterr().out
    assert json.loads((tmp_path / "run" / "config.json").read_text())["dataset"] == name
    assert set(json.loads((tmp_path / "run" / "eval.json").read_text())["classes"]) == {"cat", "dog"}


def test_format_of_roboflow_folders(tmp_path):
    for split in ("train", "valid"):
        save_image(tmp_path / split / "a.jpg")
        image = {"id": 0, "file_name": "a.jpg", "width": 60, "height": 40}
        data = {"images": [image], "annotations": [], "categories": [{"id": 0, "name": "cells"}]}
        (tmp_path / split / "_annotations.coco.json").write_text(json.dumps(data))
    assert list(find_formats(tmp_path)) == ["coco"]
    assert len(open_dataset("coco", tmp_path, "val")) == 1
