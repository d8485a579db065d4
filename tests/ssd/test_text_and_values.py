"""Tests texts, names and numbers as annotation tools write them."""

import json

import pytest

from ssd.data import DataError, DetectionDataset, open_dataset
from ssd.data.annotations import AnnotationsBuilder
from ssd.data.faults import FaultLog
from ssd.data.formats.field_values import as_int, as_names, is_true
from tests.ssd.small_folders import save_image, voc_object, write_coco, write_voc
from tests.ssd.test_data_yolo import SQUARE, write_yolo
from tests.ssd.tool_exports import supervisely


@pytest.mark.parametrize(
    ("value", "number"),
    [(1, 1), (1.0, 1), ("1", 1), ("1.0", 1), (1.5, None), ("x", None), (True, None), (None, None), (2**63, None),
     ("1_1", None), ("1e3", None), ("007", 7), (2.0**53, 2**53), (2.0**53 + 2, None), (f"{2**53 + 1}.0", 2**53 + 1),
     (float("inf"), None), ("nan", None), ("9" * 50, None), (str(2**53 + 1), 2**53 + 1)],
)  # fmt: skip
def test_as_int_values_and_errors(value, number):
    assert as_int(value) == number


def test_flag_and_name_values():
    assert all(map(is_true, (True, 1, 1.0, "1", "true", "Yes", " 1.0")))
    assert not any(map(is_true, (False, 0, None, "0", "false", "", "no", [])))
    assert as_names("cat, dog") == as_names(["cat", "dog"]) == ("cat", "dog")
    for wrong in ("cat,,dog", [], ["cat", "cat"], [1], {"cat": 1}):
        with pytest.raises(DataError, match="classes"):
            as_names(wrong)


@pytest.mark.parametrize("codec", ["gb2312", "GBK", "big5", "utf-16"])
def test_xml_uses_declared_encoding(tmp_path, codec):
    write_voc(tmp_path, {"a": [voc_object()]})
    text = f'<?xml version="1.0" encoding="{codec}"?><annotation>{voc_object("中")}</annotation>'
    (tmp_path / "Annotations/a.xml").write_bytes(text.encode(codec))
    assert open_dataset("voc", tmp_path).classes == ("中",)


def test_utf16_and_non_utf8_text_files(tmp_path):
    write_voc(tmp_path / "voc", {"é": [voc_object()]})
    path = tmp_path / "voc/ImageSets/Main/train.txt"
    path.write_bytes("é\r\n".encode("utf-16"))
    assert len(open_dataset("voc", tmp_path / "voc")) == 1
    path.write_bytes("a\r\né\r\n".encode("cp1252"))
    with pytest.raises(DataError, match=r"train\.txt, line 2: the text is not UTF-8; save the file as UTF-8"):
        open_dataset("voc", tmp_path / "voc")
    (tmp_path / "yolo").mkdir()
    write_yolo(tmp_path / "yolo", {"a": SQUARE})
    (tmp_path / "yolo/data.yaml").write_bytes("names: [cat]\ntrain: images/train\n".encode("utf-16"))
    assert len(open_dataset("yolo", tmp_path / "yolo")) == 1


def test_image_names_with_spaces(tmp_path):
    names = ["photo", "photo (1)", "photo 1", "shot 2020-12-16 16.42.21"]
    write_voc(tmp_path, {name: [voc_object()] for name in names})
    assert len(open_dataset("voc", tmp_path)) == 4
    (tmp_path / "ImageSets/Main/train.txt").write_text("photo -1\nphoto (1)  1\nphoto 1\n")
    assert len(open_dataset("voc", tmp_path)) == 3


YAML_NAMES = {
    "names: [yes, no]": ("yes", "no"),
    "names: {'0': a, 1: b}": ("a", "b"),
    "names : [a, b]": ("a", "b"),
    "nc: '2'\nnames: [a, b]": ("a", "b"),
    "names: [1, 2.50]": ("1", "2.50"),
}


@pytest.mark.parametrize("text", YAML_NAMES)
def test_yaml_class_names_are_taken_literally(tmp_path, text):
    write_yolo(tmp_path, {"a": SQUARE})
    (tmp_path / "data.yaml").write_text(text + "\ntrain: images/train\n")
    assert open_dataset("yolo", tmp_path).classes == YAML_NAMES[text]


def test_blank_line_among_class_names_raises(tmp_path):
    write_yolo(tmp_path, {"a": SQUARE}, names=None)
    (tmp_path / "classes.txt").write_text("cat\n\ndog\n")
    with pytest.raises(DataError, match=r"classes\.txt, line 2: the line is blank"):
        open_dataset("yolo", tmp_path)


IMAGE = {"id": 1, "file_name": "a.jpg", "width": 60, "height": 40}


@pytest.mark.parametrize(
    "name",
    [
        "images/a.jpg",
        "images\\a.jpg",
        "..\\images\\a.jpg",
        "./a.jpg",
        "http://host/x/a.jpg",
        "C:\\x\\a.jpg",
        "/x/a.jpg",
    ],
)
def test_coco_file_name_with_folders(tmp_path, name):
    save_image(tmp_path / "images/a.jpg")
    write_coco(tmp_path, [], [{**IMAGE, "file_name": name, "absent": 1}])
    dataset = open_dataset("coco", tmp_path)
    assert dataset.annotations.files.tolist() == [str(tmp_path / "images/a.jpg")]


def test_coco_missing_size_text_flag_and_supercategory(tmp_path):
    box = {"id": 1, "image_id": "1", "category_id": "1", "bbox": ["1", 1, 20, 20], "iscrowd": "0"}
    write_coco(tmp_path, [box, {**box, "iscrowd": "true"}], [{"id": 1.0, "file_name": "a.jpg"}])
    data = json.loads((tmp_path / "instances.json").read_text())
    groups = [{"id": 0, "name": "cells", "supercategory": "none"}, {"id": 1, "name": "cell", "supercategory": "cells"}]
    (tmp_path / "instances.json").write_text(json.dumps({**data, "categories": groups}))
    dataset = open_dataset("coco", tmp_path)
    assert dataset.classes == ("cell",) and dataset.annotations.sizes.tolist() == [[40, 60]]
    assert dataset.annotations.ignore.tolist() == [False, True]


def test_linked_folders_are_followed_and_hidden_ones_skipped(tmp_path):
    (tmp_path / "x").mkdir()
    write_yolo(tmp_path / "x", {"a": SQUARE})
    save_image(tmp_path / "camera/b.jpg")
    save_image(tmp_path / "x/images/train/.ipynb_checkpoints/a-checkpoint.jpg")
    (tmp_path / "x/images/train/linked").symlink_to(tmp_path / "camera")
    dataset = open_dataset("yolo", tmp_path / "x")
    assert [path.rpartition("/")[2] for path in dataset.annotations.files] == ["a.jpg", "b.jpg"]


def test_classes_as_one_string(tmp_path):
    write_voc(tmp_path, {"a": [voc_object()]})
    assert open_dataset("voc", tmp_path, classes="cat,dog").classes == ("cat", "dog")


def test_coco_object_of_polygons_alone(tmp_path):
    image = {"id": 1, "file_name": "a.jpg", "width": 60, "height": 40}
    about = {"image_id": 1, "category_id": 1}
    polygons = {"segmentation": [[15, 10, 45, 10, 45, 20], [20, 20, 30, 30, 20, 30]]}
    broken = [
        {"segmentation": []},
        {"segmentation": {"size": [40, 60], "counts": "x"}},
        {"bbox": [], "segmentation": [7]},
    ]
    objects = [{"id": i, **about, **shape} for i, shape in enumerate([polygons, {**polygons, "bbox": []}, *broken])]
    dataset = open_dataset("coco", write_coco(tmp_path, objects, [image]))
    assert dataset.target(0)["boxes"].tolist() == [[15, 10, 45, 30]] * 2
    assert dataset.summary().faults == {"box not a number": 3}


def test_supervisely_class_of_several_shapes(tmp_path):
    supervisely(tmp_path)
    classes = [{"title": "cat", "shape": shape} for shape in ("rectangle", "polygon")]
    (tmp_path / "meta.json").write_text(json.dumps({"classes": classes}))
    assert open_dataset("supervisely", tmp_path, "all").classes == ("cat",)


def test_class_that_a_data_set_names_twice():
    with pytest.raises(DataError, match=r"^mine names the class 'cat' twice$"):
        DetectionDataset("mine", ("cat", "dog", "cat"), AnnotationsBuilder(), FaultLog())
