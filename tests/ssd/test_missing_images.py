"""Tests images that are missing: a file of the same name in another folder is not used instead."""

import json

import pytest

from ssd.data import open_dataset
from tests.ssd.small_folders import save_image, voc_object
from tests.ssd.tool_exports import write

NAMES = ("cam1/1.jpg", "cam1/2.jpg", "cam2/1.jpg", "cam2/2.jpg")
FOUND = ["cam1/1.jpg", "cam1/2.jpg"]


def write_coco_names(root, names):
    images = [{"id": i, "file_name": name, "width": 60, "height": 40} for i, name in enumerate(names, start=1)]
    objects = [{"id": i, "image_id": i, "category_id": 1, "bbox": [5, 5, 9, 9]} for i in range(1, len(names) + 1)]
    data = {"images": images, "annotations": objects, "categories": [{"id": 1, "name": "cat"}]}
    write(root / "annotations/instances_train.json", json.dumps(data))


def write_csv_names(root, names):
    write(
        root / "train.csv", "image,xmin,ymin,xmax,ymax,label\n" + "".join(f"{name},1,1,20,20,cat\n" for name in names)
    )


def write_yolo_list(root, names):
    write(root / "train.txt", "".join(f"images/{name}\n" for name in names))
    write(root / "data.yaml", "names: [cat]\ntrain: train.txt\n")


def write_xml_files(root, names):
    for name in names:
        write(root / f"annotations/{name[:-4]}.xml", f"<annotation>{voc_object()}</annotation>")


def write_datumaro(root, names):
    items = [{"id": name, "annotations": [], "image": {"path": name, "size": [40, 60]}} for name in names]
    labels = {"label": {"labels": [{"name": "cat"}]}}
    write(root / "annotations/train.json", json.dumps({"categories": labels, "items": items}))


WRITERS = {
    "coco": write_coco_names,
    "csv": write_csv_names,
    "yolo": write_yolo_list,
    "voc": write_xml_files,
    "datumaro": write_datumaro,
}


@pytest.mark.parametrize("names", [NAMES, NAMES[::-1]], ids=["first", "last"])
@pytest.mark.parametrize("format", WRITERS)
def test_missing_image_is_not_replaced_by_file_of_same_name(tmp_path, format, names):
    for name in FOUND:
        save_image(tmp_path / "images" / name)
    WRITERS[format](tmp_path, names)
    dataset = open_dataset(format, tmp_path, "all" if format == "voc" else "train")
    assert sorted(file.partition("/images/")[2] for file in dataset.annotations.files) == FOUND
    assert dataset.log.counts == {"image missing": 2} and dataset.num_listed == 4


@pytest.mark.parametrize("format", ["coco", "csv", "datumaro"])
def test_ambiguous_file_matches_neither_name(tmp_path, format):
    for name in ("1.jpg", "2.jpg"):
        save_image(tmp_path / "images" / name)
    WRITERS[format](tmp_path, (r"C:\a\1.jpg", r"C:\b\1.jpg", r"C:\a\2.jpg"))
    dataset = open_dataset(format, tmp_path)
    assert [file.partition("/images/")[2] for file in dataset.annotations.files] == ["2.jpg"]
    assert dataset.log.counts == {"image missing": 2}


def test_percent_encoded_names_are_found(tmp_path):
    for name in ("a ä.jpg", "100%25.jpg"):
        save_image(tmp_path / "images" / name)
    write_coco_names(tmp_path, ("images/a%20%C3%A4.jpg", "100%25.jpg"))
    dataset = open_dataset("coco", tmp_path)
    assert len(dataset) == 2 and not dataset.report


@pytest.mark.parametrize("name", ["/etc/hostname", "x" * 5000, "a\0b"])
def test_impossible_names_are_missing_images(tmp_path, name):
    save_image(tmp_path / "images/1.jpg")
    write_datumaro(tmp_path, ("1.jpg", name))
    dataset = open_dataset("datumaro", tmp_path)
    assert len(dataset) == 1 and dataset.log.counts == {"image missing": 1}
