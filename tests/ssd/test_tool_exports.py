"""Tests that exports of annotation tools are detected, split and read from their path alone."""

import contextlib
import json
from pathlib import Path

import pytest

from ssd.common.errors import ConfigError
from ssd.config import TrainConfig
from ssd.config.dataset_format import resolve_dataset
from ssd.data import DataError, open_dataset
from ssd.engine.setup import open_datasets
from ssd.programs import data as data_program
from tests.ssd.tool_exports import (
    EXPORTS,
    NAMES,
    XML,
    coco,
    cvat_coco,
    datumaro,
    images,
    labelimg_voc,
    labelme,
    roboflow_yolo,
    texts,
    write,
    xml,
)


def open_both(path, **settings):
    config = TrainConfig(data_path=str(path), **settings)
    resolve_dataset(config)
    return config, *open_datasets(config)


@pytest.mark.parametrize("tool", EXPORTS)
def test_tool_export_is_read_by_path_alone(tmp_path, tool, capsys):
    writer, name, is_split = EXPORTS[tool]
    writer(tmp_path)
    config, train, val = open_both(tmp_path)
    out = capsys.readouterr().out
    assert config.dataset == name and train.classes == val.classes == ("cat",), out
    assert not train.report and not val.report
    if is_split is not None:
        assert (len(train), len(val)) == (6, 2)
        assert set(train.annotations.files).isdisjoint(val.annotations.files)
        assert ("split: 6 images to train on, 2 to evaluate on" in out) != is_split, out
    for dataset in (train, val):
        for image, target in dataset:
            assert image.shape == (3, 40, 60) and target["boxes"].tolist() == [[15, 10, 45, 30]]


@pytest.mark.parametrize("file", ["data.yaml", "annotations/instances_default.json"])
def test_annotation_file_path_selects_its_folder(tmp_path, file):
    (roboflow_yolo if file == "data.yaml" else cvat_coco)(tmp_path)
    config, train, val = open_both(tmp_path / file)
    assert config.dataset == ("yolo" if file == "data.yaml" else "coco") and (len(train), len(val)) == (6, 2)


def test_validation_split_is_stable_and_configurable(tmp_path, capsys):
    names = [f"{i:03d}" for i in range(40)]
    images(tmp_path / "a/images", names)
    coco(tmp_path / "a/result.json", names)
    _, train, val = open_both(tmp_path / "a", val_share=0.25)
    assert (len(train), len(val)) == (30, 10)
    before = {path.rpartition("/")[2] for path in val.annotations.files}
    (tmp_path / "a").rename(tmp_path / "b")
    images(tmp_path / "b/images", ["new"])
    coco(tmp_path / "b/result.json", [*names, "new"])
    _, _, val = open_both(tmp_path / "b", val_share=0.25)
    assert len(before ^ {path.rpartition("/")[2] for path in val.annotations.files}) <= 2
    capsys.readouterr()
    _, train, val = open_both(tmp_path / "b", val_share=0.0)
    assert len(train) == len(val) == 41 and "the model is evaluated on its training images" in capsys.readouterr().out


@pytest.mark.parametrize("file", ["data.yaml", "result.json", "annotations/all.json"])
def test_file_and_folder_of_a_data_set_hold_out_the_same_images(file, tmp_path):
    names = [f"{i:03d}" for i in range(40)]
    images(tmp_path / "a/images", names)
    if file == "data.yaml":
        texts(tmp_path / "a/labels", names)
        write(tmp_path / "a" / file, "train: images\nnames: [cat, dog]\n")
    else:
        coco(tmp_path / "a" / file, names)
    chosen = [open_both(tmp_path / "a" / path)[2].annotations.files for path in ("", file)]
    assert len(chosen[0]) == 8 and chosen[0].tolist() == chosen[1].tolist()
    sources = (tmp_path / "a", tmp_path / "a" / file)
    for output, source in zip("bc", sources, strict=True):
        with contextlib.suppress(SystemExit):
            data_program.main(
                ["pack", str(source), str(tmp_path / output), *(["--no-images"] if output == "c" else [])]
            )
        packed = open_both(tmp_path / output)[2].annotations.files
        assert sorted(Path(path).name for path in packed) == sorted(Path(path).name for path in chosen[0])


def test_validation_split_keeps_classes_in_training(tmp_path):
    images(tmp_path / "images", NAMES)
    texts(tmp_path / "labels", NAMES)
    write(tmp_path / "classes.txt", "cat\nrare\n")
    write(tmp_path / "labels/c.txt", "1 0.5 0.5 0.5 0.5\n")
    _, train, val = open_both(tmp_path, val_share=0.5)
    assert (len(train), len(val)) == (4, 4) and train.class_counts()["rare"] == 1


def test_same_training_and_evaluation_images_are_reported(tmp_path, capsys):
    cvat_coco(tmp_path)
    _, train, val = open_both(tmp_path, train_split="all", val_split="all")
    assert len(train) == len(val) == 8
    assert "warning: 8 of the 8 validation images are also training images" in capsys.readouterr().out


def test_training_part_is_evaluated_if_asked_for(tmp_path, capsys):
    cvat_coco(tmp_path)
    _, train, val = open_both(tmp_path, val_split="train")
    assert train.annotations.files.tolist() == val.annotations.files.tolist() and len(val) == 6
    assert "the training part is evaluated" in capsys.readouterr().out and val.name.endswith("training part")


def test_splits_of_the_same_images_are_divided(tmp_path, capsys):
    images(tmp_path / "images", NAMES)
    for split in ("train", "val"):
        coco(tmp_path / f"annotations/{split}.json")
    _, train, val = open_both(tmp_path)
    assert (len(train), len(val)) == (6, 2)
    assert f"since the splits train and val of {tmp_path} are the same images" in capsys.readouterr().out


def test_dataset_with_other_splits_is_not_split(tmp_path):
    for name in ("night", "day"):
        images(tmp_path / "images", NAMES)
        coco(tmp_path / f"annotations/{name}.json")
    with pytest.raises(DataError, match=r"no COCO split 'train': .*day\.json, annotations/night\.json"):
        open_both(tmp_path)


def test_unknown_layout_error_lists_folder_content(tmp_path):
    cvat_coco(tmp_path / "zip/export")
    images(tmp_path / "yolo/images")
    texts(tmp_path / "yolo/labels")
    write(tmp_path / "cvat/annotations.xml", "<annotations><version>1.1</version></annotations>")
    write(tmp_path / "via/via.json", "{}")
    for name, answer in {
        "zip": r"Its subfolder has the format coco: --data-path .*export",
        "yolo": r"Found 8 \.jpg, 8 \.txt: if these are YOLO labels, write the class names, one per line, to .*classes",
        "cvat": r"Found 1 \.xml: XML files must have the PASCAL VOC format",
        "via": r"Found 1 \.json: JSON files must have the format of COCO",
    }.items():
        with pytest.raises(ConfigError, match=answer):
            open_both(tmp_path / name)


def test_data_yaml_takes_precedence_over_xml_files(tmp_path):
    roboflow_yolo(tmp_path)
    xml(tmp_path / "old")
    assert open_both(tmp_path)[0].dataset == "yolo"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("format", ["yolo", "voc", "coco"])
def test_boxes_equal_supervision(tmp_path, format):
    supervision = pytest.importorskip("supervision")
    writer = {"yolo": roboflow_yolo, "voc": labelimg_voc, "coco": cvat_coco}[format]
    writer(tmp_path)
    reader = supervision.DetectionDataset
    if format == "yolo":
        theirs = reader.from_yolo(f"{tmp_path}/train/images", f"{tmp_path}/train/labels", f"{tmp_path}/data.yaml")
    elif format == "voc":
        theirs = reader.from_pascal_voc(str(tmp_path), str(tmp_path))
    else:
        theirs = reader.from_coco(f"{tmp_path}/images/default", f"{tmp_path}/annotations/instances_default.json")
    ours = open_dataset(format, tmp_path, "train" if format == "yolo" else "all")
    boxes = {path.rpartition("/")[2]: ours.target(i)["boxes"].tolist() for i, path in enumerate(ours.annotations.files)}
    assert {path.rpartition("/")[2]: found.xyxy.tolist() for path, _, found in theirs} == boxes
    assert tuple(theirs.classes) == ours.classes


@pytest.mark.parametrize("kind", ["coco", "labelme"])
def test_evaluation_split_with_some_of_the_classes(tmp_path, kind):
    names = {"train": ["cat", "dog"], "val": ["dog"]}
    for split, classes in names.items():
        images(tmp_path / split, classes)
        if kind == "labelme":
            labelme(tmp_path / split, classes, classes)
            continue
        coco(tmp_path / f"{split}/_annotations.coco.json", classes)
        data = json.loads((tmp_path / f"{split}/_annotations.coco.json").read_text())
        data["categories"] = [{"id": 7 - i, "name": name} for i, name in enumerate(classes)]
        data["annotations"] = [{**box, "category_id": 7 - i} for i, box in enumerate(data["annotations"])]
        (tmp_path / f"{split}/_annotations.coco.json").write_text(json.dumps(data))
    _, train, val = open_both(tmp_path)
    assert train.classes == val.classes and set(val.classes) == {"cat", "dog"}
    assert [val.classes[label - 1] for label in val.annotations.labels] == ["dog"]
    assert "note: has no class cat" in str(val.summary()) and "has no class" not in str(train.summary())


def test_voc_files_that_are_called_differently_than_their_images(tmp_path):
    images(tmp_path / "images", "abc")
    for number, name in enumerate("abb"):  # two that name one image belong to none
        write(tmp_path / f"annotations/{number}.xml", XML.format(name))
    write(tmp_path / "annotations/c.xml", XML.format("a"))
    dataset = open_dataset("voc", tmp_path, "all")
    assert sorted(path.rpartition("/")[2] for path in dataset.annotations.files) == ["a.jpg", "c.jpg"]
    assert dataset.log.counts == {"image missing": 2}


def test_names_with_accents_of_a_mac_are_found(tmp_path):
    images(tmp_path / "images", ["ü", "e\u0301", "c"])
    coco(tmp_path / "result.json", ["u\u0308", "é", "c"])
    assert len(open_dataset("coco", tmp_path, "all")) == 3


def test_datumaro_items_without_image_are_found_by_id(tmp_path):
    datumaro(tmp_path)
    file = tmp_path / "annotations/default.json"
    data = json.loads(file.read_text())
    for number, item in enumerate(data["items"]):
        item |= {"image": None, "media": {"path": f"{item['id']}.jpg"} if number % 2 else None}
    file.write_text(json.dumps(data))
    assert len(open_dataset("datumaro", tmp_path, "all")) == 8


def test_yolo_export_without_images_says_so(tmp_path):
    texts(tmp_path / "labels")
    write(tmp_path / "classes.txt", "cat\n")
    (tmp_path / "images").mkdir()
    with pytest.raises(DataError, match="has no images; exports of labels alone need them in a folder images beside"):
        open_dataset("yolo", tmp_path, "all")
