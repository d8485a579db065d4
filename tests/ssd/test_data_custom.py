"""Tests custom data sets given by import path: calls, item types, and errors of invalid items."""

import sys
import textwrap

import numpy as np
import pytest
import torch
from PIL import Image

from ssd.common.errors import ConfigError
from ssd.config import TrainConfig
from ssd.data import DataError, build_loader, open_dataset
from ssd.data_check.before_training import check_before_training
from ssd.engine.setup import open_datasets
from ssd.transforms import build_transforms

GOOD = {"boxes": torch.tensor([[5.0, 5.0, 20.0, 30.0]]), "labels": torch.tensor([1])}
IMAGE = torch.arange(3 * 40 * 60).reshape(3, 40, 60).to(torch.uint8)

MODULE = """
import torch

ITEMS = []

class Cells(list):
    classes = ["cell", "dust"]

def cells(root=None, split="train", extra=0):
    assert extra >= 0, "extra must not be negative"
    Cells.called = (root, split, extra)
    return Cells(ITEMS)

def nothing():
    return 3

def nameless():
    return ITEMS

class Quick(Cells):
    def __init__(self):
        super().__init__([None])

    def target(self, index):
        return {"boxes": torch.tensor([[1.0, 2, 3, 4]]), "labels": torch.tensor([2]), "size": (40, 60), "image_id": 70}

    def __getitem__(self, index):
        raise OSError("the disk is gone")
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    (tmp_path / "users_cells.py").write_text(textwrap.dedent(MODULE))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield lambda: sys.modules["users_cells"]
    sys.modules.pop("users_cells", None)


def open_with(items, root=None, split="train", **options):
    import importlib

    sys.path.insert(0, "")
    importlib.import_module("users_cells").ITEMS = items
    return open_dataset("users_cells:cells", root, split, **options)


def test_custom_dataset_is_called_and_read(module):
    crowd = {"boxes": torch.tensor([[1, 1, 9, 9], [0, 0, 60, 40]]), "labels": [2, 1], "iscrowd": [1, 0], "image_id": 9}
    empty = {"boxes": torch.empty(0), "labels": torch.empty(0, dtype=torch.int64)}
    dataset = open_with([(IMAGE, GOOD), {"image": IMAGE, **crowd}, (IMAGE, empty)], root="folder", split="val", extra=2)
    assert module().Cells.called == ("folder", "val", 2)
    assert dataset.classes == ("cell", "dust") and dataset.annotations.image_ids.tolist() == [0, 9, 2]
    image, target = dataset[1]
    assert torch.equal(image, IMAGE) and target["boxes"].tolist() == [[1, 1, 9, 9], [0, 0, 60, 40]]
    assert target["labels"].tolist() == [2, 1] and target["ignore"].tolist() == [True, False]
    assert dataset[2][1]["boxes"].shape == (0, 4) and dataset.summary().empty_images == 1
    loader = build_loader(dataset, build_transforms("none", 32, train=False), 2, train=False)
    assert [batch.image_ids for batch in loader] == [[0, 9], [2]]
    few = open_with([(IMAGE, empty), (IMAGE, GOOD)], empty="drop", classes=["a"])
    assert len(few) == 1 and few[0][1]["image_id"] == 1 and few.classes == ("a",)


@pytest.mark.parametrize(
    "image",
    [
        Image.fromarray(IMAGE.permute(1, 2, 0).numpy()),
        IMAGE.permute(1, 2, 0).numpy(),
        IMAGE.float() / 255,
        IMAGE.double() / 255,
    ],
)
def test_custom_image_types_are_equivalent(module, image):
    assert torch.equal(open_with([(image, GOOD)])[0][0], IMAGE)


BAD_ITEMS = {
    "an item must be (image, target dict) or one dict, got 3 values": (IMAGE, GOOD["boxes"], GOOD["labels"]),
    "an item must be (image, target dict) or one dict, got a Tensor": IMAGE,
    "an item that is a dict must have the key image, got boxes, labels": GOOD,
    "image must have shape [3, H, W], got [40, 60]": (IMAGE[0], GOOD),
    "image must be uint8, or float in 0 .. 1, got torch.int64": (IMAGE.long(), GOOD),
    "image as float must be in 0 .. 1 (not normalized yet), got 0 .. 255": (IMAGE.float(), GOOD),
    "image as an array must be uint8 [H, W, 3], got float64 [40, 60, 3]": (np.zeros((40, 60, 3)), GOOD),
    "image must be a tensor, a PIL image or an array, got a str": ("a.jpg", GOOD),
    "the target must have the keys boxes and labels, got boxes": (IMAGE, {"boxes": GOOD["boxes"]}),
    "boxes must have shape [G, 4], xyxy in pixels, got [4]": (IMAGE, {**GOOD, "boxes": GOOD["boxes"][0]}),
    "labels must be integers [1], got torch.float32 [1]": (IMAGE, {**GOOD, "labels": torch.ones(1)}),
    "labels must be integers [1], got torch.int64 [2]": (IMAGE, {**GOOD, "labels": torch.tensor([1, 2])}),
    "ignore must have shape [1], got [2]": (IMAGE, {**GOOD, "ignore": [0, 1]}),
}


@pytest.mark.parametrize("message", BAD_ITEMS)
def test_custom_item_error_messages(module, message):
    dataset = open_with([(IMAGE, GOOD), BAD_ITEMS[message]])
    (fault,) = dataset.report
    assert (fault.file, fault.kind, fault.detail) == ("users_cells:cells[1]", "item unusable", message)
    assert len(dataset) == 1
    with pytest.raises(DataError, match=r"users_cells:cells\[1\]: item unusable"):
        open_with([(IMAGE, GOOD), BAD_ITEMS[message]], on_error="raise")
    with pytest.raises(DataError, match="no usable image; 1 faults, the first: "):
        open_with([BAD_ITEMS[message]])


def test_custom_object_error_messages(module):
    boxes = torch.tensor([[5.0, 5.0, 20.0, 30.0], [5.0, 5.0, 5.0, 9.0], [1.0, 1.0, 9.0, 9.0], [1.0, 1.0, 9.0, 9.0]])
    dataset = open_with([(IMAGE, {"boxes": boxes, "labels": torch.tensor([2, 1, 3, 0])})])
    assert [(f.kind, f.object_index) for f in dataset.report] == [
        ("box without area", 1),
        ("unknown class", 2),
        ("unknown class", 3),
    ]
    assert dataset[0][1]["labels"].tolist() == [2]


def test_custom_targets_avoid_reading_images(module):
    dataset = open_dataset("users_cells:Quick")
    assert dataset.annotations.sizes.tolist() == [[40, 60]] and dataset.index_of(70) == 0
    with pytest.raises(DataError, match=r"users_cells:Quick\[0\]: item unusable \(OSError: the disk is gone\)"):
        dataset[0]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("users_cels:cells", {}, "the module 'users_cels' cannot be imported from here"),
        ("users_cells:cels", {}, "has no class or function 'cels'; it has Cells, cells, nothing, nameless, Quick"),
        ("users_cells:cells", {"extras": 1}, "takes no option 'extras'; it takes root, split, extra"),
        ("users_cells:cells", {"extra": -1}, "called with split='train', extra=-1 raised AssertionError: extra must"),
        ("users_cells:nothing", {}, r"must return a data set with len\(\) and \[index\], got a int"),
        ("users_cells:nameless", {}, "class names are missing"),
    ],
)
def test_custom_dataset_open_errors(module, name, options, message):
    with pytest.raises(DataError, match=message):
        open_dataset(name, **options)


def test_custom_image_ids_must_be_unique(module):
    with pytest.raises(DataError, match=r"cells\[1\] has the image_id 4 of item 0"):
        open_with([(IMAGE, {**GOOD, "image_id": 4})] * 2)


def test_training_without_objects_raises(module):
    open_with([(IMAGE, {**GOOD, "labels": torch.tensor([3])})])  # labels that count from another number
    config = TrainConfig(dataset="users_cells:cells", train_split="train")
    with pytest.raises(ConfigError, match="--train-split train: none of its 1 images has an object to learn from"):
        open_datasets(config)
    config.test_only = True
    assert len(open_datasets(config)[0]) == 1


@pytest.mark.parametrize(
    ("wrong", "kind"),
    [
        (lambda boxes: torch.cat([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], dim=1), "xywh instead of xyxy"),
        (
            lambda boxes: torch.cat([boxes[:, :2] + boxes[:, 2:], 2 * (boxes[:, 2:] - boxes[:, :2])], dim=1) / 2,
            "cxcywh",
        ),
        (lambda boxes: boxes / 60, "fractions instead of pixels"),
        (lambda boxes: boxes, None),
    ],
)
def test_boxes_in_another_format_are_named_before_training(module, wrong, kind):
    generator = torch.Generator().manual_seed(0)
    items = []
    for _ in range(150):
        low = torch.rand(2, 2, generator=generator) * 20
        boxes = torch.cat([low, low + 1 + 19 * torch.rand(2, 2, generator=generator)], dim=1)
        items.append((IMAGE, {"boxes": wrong(boxes), "labels": torch.tensor([1, 2])}))
    dataset = open_with(items)
    found = check_before_training(TrainConfig(dataset="users_cells:cells"), dataset, dataset)
    assert [kind in line for line in found] == [True] if kind else found == []
