"""Tests malicious files: each is rejected or skipped early, with one line that names it."""

import json
import os
from itertools import pairwise

import pytest
from PIL import Image

from ssd.common.file_tree import read_text, walk
from ssd.data import DataError, open_dataset, read_image
from ssd.data.formats.coco_json import read_json
from ssd.data.formats.voc import read_xml
from tests.ssd.small_folders import save_image, voc_object, write_coco, write_voc
from tests.ssd.test_data_yolo import SQUARE, write_yolo
from tests.ssd.tool_exports import datumaro

BOX = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 20, 20]}
IMAGE = {"id": 1, "file_name": "a.jpg", "width": 60, "height": 40}


def patch_jpeg_size(path, height, width):
    raw = bytearray(path.read_bytes())
    place = raw.index(b"\xff\xc0") + 5  # SOF0: marker, length, precision, height, width
    raw[place : place + 4] = height.to_bytes(2, "big") + width.to_bytes(2, "big")
    path.write_bytes(bytes(raw))


def test_jpeg_bomb_is_rejected_by_its_header(tmp_path):
    save_image(tmp_path / "bomb.jpg")
    patch_jpeg_size(tmp_path / "bomb.jpg", 40_000, 40_000)
    with pytest.raises(DataError, match=r"the image has 1600000000 pixels, more than \d+; cut it into parts"):
        read_image(tmp_path / "bomb.jpg")


def test_image_of_unexpected_size_is_rejected_before_decoding(tmp_path, monkeypatch):
    write_voc(tmp_path, {"a": [voc_object()]})
    patch_jpeg_size(tmp_path / "JPEGImages/a.jpg", 9_000, 9_000)
    monkeypatch.setattr("ssd.data.loading.images.decode_jpeg", lambda *_, **__: pytest.fail("decoded"))
    with pytest.raises(DataError, match=r"annotated as 60 x 40, the image is 9000 x 9000"):
        open_dataset("voc", tmp_path)[0]


def test_postscript_and_pipes_are_rejected_as_images(tmp_path):
    (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n")
    os.mkfifo(tmp_path / "b.jpg")
    with pytest.raises(DataError, match="not an image that PIL can read"):
        read_image(tmp_path / "a.png")
    with pytest.raises(DataError, match="not a regular file"):
        read_image(tmp_path / "b.jpg")
    with pytest.raises(DataError, match="the path is a folder"):
        read_image(tmp_path)


@pytest.mark.parametrize("read", [read_text, read_json, read_xml])
def test_pipe_in_place_of_annotations_does_not_block(tmp_path, read):
    os.mkfifo(tmp_path / "a")
    with pytest.raises(DataError, match="not a regular file"):
        read(tmp_path / "a")


@pytest.mark.parametrize(
    ("images", "boxes", "kind"),
    [
        ([{**IMAGE, "id": 2**70}], [], "image entry malformed"),
        ([{**IMAGE, "height": 2**63}], [], "image entry malformed"),
        ([{**IMAGE, "file_name": "a" * 5000, "absent": 1}], [], "image missing"),
        ([{**IMAGE, "file_name": "../../outside.jpg", "absent": 1}], [], "image missing"),
        ([IMAGE], [{**BOX, "bbox": [1, 1, 10**400, 2]}], "box not a number"),
        ([IMAGE], [{**BOX, "category_id": {}}], "unknown class"),
        ([None, IMAGE], [None], "annotation of no image"),
    ],
)
def test_coco_bad_entries_are_reported(tmp_path, images, boxes, kind):
    root = tmp_path / "data/inner"
    root.mkdir(parents=True)
    save_image(tmp_path / "outside.jpg")
    save_image(root / "images/good.jpg")
    good = {"id": 9, "file_name": "good.jpg", "width": 60, "height": 40}
    entries = [entry for entry in images if entry]
    write_coco(root, boxes, [*entries, good])
    if len(entries) < len(images):
        data = json.loads((root / "instances.json").read_text())
        (root / "instances.json").write_text(json.dumps({**data, "images": [None, *data["images"]]}))
    dataset = open_dataset("coco", root)
    assert kind in dataset.summary().faults and len(dataset) >= 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "instances.json is not a JSON file"),
        ('{"images": [], "annotations": [], "categories": [1]}', "category 1 must have an id and a name"),
        ('{"images": [{"id": ' + "9" * 5000 + "}]}", "instances.json is not a JSON file"),
    ],
)
def test_coco_bad_file_error_is_one_line(tmp_path, text, message):
    (tmp_path / "images").mkdir()
    (tmp_path / "instances.json").write_text(text)
    with pytest.raises(DataError, match=message) as error:
        open_dataset("coco", tmp_path)
    assert len(str(error.value)) < 600


LETTERS = "abcdefghijklmnopqrstuvwx"
LAUGHS = "a: &a [x, x]\n" + "".join(f"{b}: &{b} [*{a}, *{a}]\n" for a, b in pairwise(LETTERS))


@pytest.mark.parametrize(
    ("yaml", "message"),
    [
        ("names: [cat]\ntrain: /\n", "outside of .*allow_outside"),
        ("names: [cat]\ntrain: ../elsewhere\n", "outside of .*allow_outside"),
        ("names: [cat]\ntrain: " + "[" * 5000, r"data\.yaml.*not a YAML file"),
        (LAUGHS + "names: *x\ntrain: images\n", "names must list the classes"),
        ("names: [cat]\ntrain: images/" + "x" * 5000 + "\n", "train names 'images/x"),
    ],
)
def test_yaml_error_is_one_line(tmp_path, yaml, message):
    (tmp_path / "data").mkdir()
    write_yolo(tmp_path / "data", {"a": SQUARE})
    save_image(tmp_path / "elsewhere/b.jpg")
    (tmp_path / "data/data.yaml").write_text(yaml)
    with pytest.raises(DataError, match=message) as error:
        open_dataset("yolo", tmp_path / "data")
    assert len(str(error.value)) < 3000


def test_paths_outside_the_folder_need_permission(tmp_path):
    (tmp_path / "data").mkdir()
    write_yolo(tmp_path / "data", {"a": SQUARE})
    save_image(tmp_path / "elsewhere/b.jpg")
    (tmp_path / "data/data.yaml").write_text("names: [cat]\ntrain: ../elsewhere\n")
    assert len(open_dataset("yolo", tmp_path / "data", allow_outside=True)) == 1
    (tmp_path / "data/data.yaml").write_text("names: [cat]\ntrain: list.txt\n")
    (tmp_path / "data/list.txt").write_text(f"{tmp_path}/elsewhere/b.jpg\n")
    with pytest.raises(DataError, match=r"list\.txt, line 1 names .*b\.jpg, outside of"):
        open_dataset("yolo", tmp_path / "data")


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("<width>60", "<width>1e300"),
        lambda text: '<?xml version="1.0" encoding="nonsense"?>' + text,
        lambda text: '<?xml version="1.0" encoding="utf-7"?>' + text,
        lambda text: "<a>" * 50_000,
        lambda text: text.replace("11", "9" * 400),
    ],
)
def test_voc_bad_file_affects_only_itself(tmp_path, change):
    write_voc(tmp_path, {"a": [voc_object()], "b": [voc_object()]})
    path = tmp_path / "Annotations/a.xml"
    path.write_text(change(path.read_text()))
    assert 1 <= len(open_dataset("voc", tmp_path)) <= 2


def test_walk_ends_on_circular_links(tmp_path, monkeypatch):
    save_image(tmp_path / "a/x.jpg")
    (tmp_path / "a/again").symlink_to(tmp_path)
    (tmp_path / "a/.hidden").mkdir()
    save_image(tmp_path / "a/.hidden/y.jpg")
    assert [path.name for path in walk(tmp_path)] == ["x.jpg"]
    monkeypatch.setattr("ssd.common.file_tree._MAX_FILES", 0)
    with pytest.raises(DataError, match="give the folder of the data set itself"):
        list(walk(tmp_path))


def test_long_class_list_is_truncated_in_message(tmp_path):
    write_voc(tmp_path, {"a": [voc_object("x" * 100_000)]})
    dataset = open_dataset("voc", tmp_path, classes=["cat"])
    assert len(str(dataset.report[0])) < 600


def test_image_file_with_wrong_suffix_is_read(tmp_path):
    Image.new("RGB", (8, 4)).save(tmp_path / "a.png")
    (tmp_path / "a.png").rename(tmp_path / "a.jpg")
    assert read_image(tmp_path / "a.jpg").shape == (3, 4, 8)


@pytest.mark.parametrize("line", ["x" * 6000, "\0", "/nowhere/b.jpg", ".."])
def test_yolo_list_bad_line_is_reported(tmp_path, line):
    write_yolo(tmp_path, {"a": SQUARE})
    (tmp_path / "data.yaml").write_text("names: [cat]\ntrain: list.txt\n")
    (tmp_path / "list.txt").write_text(f"images/train/a.jpg\n{line}\n")
    if line == "..":
        with pytest.raises(DataError, match=r"list\.txt, line 2 names .*, outside of"):
            open_dataset("yolo", tmp_path)
        return
    dataset = open_dataset("yolo", tmp_path)
    assert len(dataset) == 1 and dataset.log.images_skipped == 1


@pytest.mark.parametrize("name", ["images", "..", "", "\0", "a\udcff.jpg"])
def test_coco_file_name_that_cannot_exist(tmp_path, name):
    save_image(tmp_path / "images/good.jpg")
    good = {"id": 9, "file_name": "good.jpg", "width": 60, "height": 40}
    write_coco(tmp_path, [], [{**IMAGE, "file_name": name, "absent": 1}, good])
    assert open_dataset("coco", tmp_path).summary().faults == {"image missing": 1}


@pytest.mark.parametrize(
    ("annotation", "kind"),
    [
        (None, "object malformed"),
        ({"type": "bbox", "label_id": 5, "bbox": [1, 1, 2, 2]}, "unknown class"),
        ({"type": "bbox", "label_id": 0, "bbox": [1, 1, "x"]}, "object malformed"),
        ({"type": "polygon", "label_id": 0, "points": []}, "object malformed"),
        ({"type": "bbox", "label_id": 0, "bbox": [1, 1, 0, 2]}, "box without area"),
    ],
)
def test_datumaro_bad_object_is_reported(tmp_path, annotation, kind):
    datumaro(tmp_path)
    path = tmp_path / "annotations/default.json"
    data = json.loads(path.read_text())
    data["items"][1]["annotations"].insert(0, annotation)
    path.write_text(json.dumps(data))
    dataset = open_dataset("datumaro", tmp_path, "all")
    assert dataset.summary().faults == {kind: 1} and "default.json, object 0" in str(dataset.report[0])
    assert len(dataset.annotations.labels) == 8
