"""Tests YOLO folders: layouts, names, lines, and errors that name file and line."""

import pytest
import torch
from PIL import Image

from ssd.data import DataError, open_dataset
from tests.ssd.small_folders import save_image

SQUARE = "0 0.5 0.5 0.5 0.5"  # of a 60 x 40 image: 15, 10 .. 45, 30


def write_yolo(root, labels, images="images/train", texts="labels/train", names="names: [cat, dog]\n", size=(60, 40)):
    if names is not None:
        (root / "data.yaml").write_text(f"path: .\ntrain: {images}\nval: {images}\nnc: 2\n{names}")
    for number, (name, text) in enumerate(labels.items()):
        save_image(root / images / f"{name}.jpg", size, seed=number)
        (root / texts).mkdir(parents=True, exist_ok=True)
        if text is not None:
            (root / texts / f"{name}.txt").write_text(text)
    return root


def test_yolo_target_values(tmp_path):
    polygon = "0 0.1 0.25 0.5 0.25 0.3 0.75"
    write_yolo(tmp_path, {"a": f"1 0.25 0.5 0.5 0.25\n\n{polygon}\n", "b": None, "c": ""})
    dataset = open_dataset("yolo", tmp_path)
    assert dataset.classes == ("cat", "dog") and len(dataset) == 3
    image, target = dataset[0]
    assert image.shape == (3, 40, 60) and target["labels"].tolist() == [2, 1]
    assert torch.allclose(target["boxes"], torch.tensor([[0.0, 15.0, 30.0, 25.0], [6.0, 10.0, 30.0, 30.0]]))
    summary = dataset.summary()
    assert summary.empty_images == 2 and not summary.faults and "1 images have no label file" in str(summary)
    assert len(open_dataset("yolo", tmp_path, empty="drop")) == 1
    assert open_dataset("yolo", tmp_path, classes=["Katze", "Hund"]).classes == ("Katze", "Hund")


@pytest.mark.parametrize("names", ["names: [cat, dog]\n", "names:\n- cat\n- dog\n", "names:\n  0: cat\n  1: dog\n"])
@pytest.mark.parametrize(("images", "texts"), [("images/train", "labels/train"), ("train/images", "train/labels")])
def test_yolo_yaml_accepts_list_and_dict_forms(tmp_path, names, images, texts):
    write_yolo(tmp_path, {"a": SQUARE}, images, texts, names)
    elsewhere = (
        "path: elsewhere\ntrain: [{}]\n",
        "train: /content/cats-1/{}\n",
        "path: D:\\cats\ntrain: D:\\cats/{}\n",
    )
    for text in ("train: {}\n", "train: ../{}\n", *elsewhere):
        (tmp_path / "data.yaml").write_text(text.format(images) + names)
        dataset = open_dataset("yolo", tmp_path)
        assert dataset.classes == ("cat", "dog") and dataset.target(0)["boxes"].tolist() == [[15, 10, 45, 30]]


@pytest.mark.parametrize(
    ("images", "texts", "split"),
    [
        ("images/val", "labels/val", "val"),
        ("valid/images", "valid/labels", "val"),
        ("images", "labels", "all"),
        ("train", "train", "train"),
        ("data", "data", "listed"),
    ],
)
def test_yolo_folder_without_yaml(tmp_path, images, texts, split):
    write_yolo(tmp_path, {"a": SQUARE}, images, texts, names=None)
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    (tmp_path / "listed.txt").write_text("data/a.jpg\n")
    dataset = open_dataset("yolo", tmp_path, split)
    assert dataset.classes == ("cat", "dog") and dataset.target(0)["boxes"].tolist() == [[15, 10, 45, 30]]


FAULTY = {
    "line malformed": "0 0.5 0.5 0.5",
    "box not a number": "0 0.5 x 0.5 0.5",
    "box not finite": "0 nan 0.5 0.5 0.5",
    "box not finite in a polygon": "0 0.1 0.1 nan 0.5 0.9 0.1",
    "unknown class": "2 0.5 0.5 0.5 0.5",
    "box not normalized": "0 30 20 10 10",
    "box without area": "0 0.5 0.5 0 0.5",
    "box clipped to its image": "0 0.95 0.5 0.5 0.5",
}


@pytest.mark.parametrize("kind", FAULTY)
def test_yolo_bad_line_error_names_file_and_line(tmp_path, kind):
    write_yolo(tmp_path, {"good": SQUARE, "bad": f"{SQUARE}\n\n{FAULTY[kind]}\n"})
    dataset = open_dataset("yolo", tmp_path)
    assert dataset.summary().faults == {kind.removesuffix(" in a polygon"): 1} and "bad.txt, line 3" in str(
        dataset.summary()
    )
    assert len(dataset.annotations.labels) == (3 if "clipped" in kind else 2)
    with pytest.raises(DataError, match=r"bad\.txt, line 3"):
        open_dataset("yolo", tmp_path, on_error="raise")


@pytest.mark.parametrize("shape", [(17, 3), (4, 3), (17, 2), (1, 2)])
def test_yolo_keypoints_are_ignored(tmp_path, shape):
    points = " ".join(["0.1 0.2 2"[: 4 * shape[1] - 1]] * shape[0])
    names = f"kpt_shape: [{shape[0]}, {shape[1]}]\nnames: [cat, dog]\n"
    write_yolo(tmp_path, {"a": f"{SQUARE} {points}\n{SQUARE} {points} 0.9\n"}, names=f"train: images/train\n{names}")
    dataset = open_dataset("yolo", tmp_path)
    assert dataset.target(0)["boxes"].tolist() == [[15, 10, 45, 30]] * 2 and not dataset.report
    (tmp_path / "data.yaml").write_text("train: images/train\nkpt_shape: 17\nnames: [cat, dog]\n")
    with pytest.raises(DataError, match=r"kpt_shape must be \[keypoints, 2 or 3\], got '17'"):
        open_dataset("yolo", tmp_path)


@pytest.mark.parametrize(
    ("images", "texts"),
    [
        ("images/train", "images/train"),  # labels beside the images
        ("Images/train", "Labels/train"),
        ("JPEGImages", "labels"),
        ("train/img", "train/labels"),
    ],
)
def test_yolo_label_folders(tmp_path, images, texts):
    root = tmp_path / "images" / "cats"  # a folder "images" above the data set has no labels beside it
    root.mkdir(parents=True)
    write_yolo(root, {"a": SQUARE}, images, texts)
    assert open_dataset("yolo", root).target(0)["boxes"].tolist() == [[15, 10, 45, 30]]


def test_yolo_label_file_of_upper_case(tmp_path):
    write_yolo(tmp_path, {"a": SQUARE})
    (tmp_path / "labels/train/a.txt").rename(tmp_path / "labels/train/a.TXT")
    (tmp_path / "labels/train/b.TXT").write_text(SQUARE)
    dataset = open_dataset("yolo", tmp_path)
    assert len(dataset.annotations.labels) == 1 and "b.TXT: image missing" in str(dataset.report[0])


def test_yolo_images_follow_exif_orientation(tmp_path):
    write_yolo(tmp_path, {"a": SQUARE})
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees
    Image.new("RGB", (60, 40)).save(tmp_path / "images" / "train" / "a.jpg", exif=exif)
    image, target = open_dataset("yolo", tmp_path)[0]
    assert image.shape == (3, 60, 40) and target["boxes"].tolist() == [[10, 15, 30, 45]]
    assert open_dataset("yolo", tmp_path, apply_exif=False)[0][0].shape == (3, 40, 60)


@pytest.mark.parametrize(
    ("yaml", "message"),
    [
        ("train: images/train\nnames: [cat, cat]\n", "names the class 'cat' twice"),
        ("train: images/train\nnames: {1: cat}\n", "count from 0 without gaps"),
        ("train: images/train\nnc: 3\nnames: [cat, dog]\n", "nc is '3', but names has 2"),
        ("val: images/train\nnames: [cat, dog]\n", "no split 'train'; splits found: val"),
        ("train: photos\nnames: [cat, dog]\n", "train names 'photos', expected a folder or list at"),
        ("train: [images\nnames: [cat, dog]\n", r"data\.yaml, line \d: not a YAML file"),
    ],
)
def test_yolo_yaml_error_messages(tmp_path, yaml, message):
    write_yolo(tmp_path, {"a": SQUARE})
    (tmp_path / "data.yaml").write_text(yaml)
    with pytest.raises(DataError, match=message):
        open_dataset("yolo", tmp_path)


def test_yolo_layout_error_messages(tmp_path):
    with pytest.raises(DataError, match=r"expected data\.yaml or classes\.txt"):
        open_dataset("yolo", tmp_path)
    (tmp_path / "classes.txt").write_text("cat\n")
    (tmp_path / "images").mkdir()
    with pytest.raises(DataError, match=r"no YOLO split 'train': .*found classes\.txt, images/\. The split 'all'"):
        open_dataset("yolo", tmp_path)
    (tmp_path / "train.txt").write_text("images/gone.jpg\n")
    with pytest.raises(DataError, match=r"no usable image; 1 faults, the first: .*gone\.jpg: image missing"):
        open_dataset("yolo", tmp_path)
