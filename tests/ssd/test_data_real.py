"""Tests the readers on real data: BCCD, VOC2007-mini and COCO-mini; skipped if absent."""

from pathlib import Path

import pytest
import torch

from ssd.data import build_loader, open_dataset
from ssd.transforms import build_transforms
from tests.ssd.real_data import real_data


@pytest.mark.parametrize(
    ("split", "images", "objects", "file", "index"),
    [("train", 205, 2804, "BloodImage_00343.xml", 3), ("val", 87, 1137, "BloodImage_00338.xml", 12)],
)
def test_read_real_bccd(split, images, objects, file, index, capsys):
    dataset = open_dataset("voc", real_data("bccd"), split)
    assert "classes found" in capsys.readouterr().out and dataset.classes == ("Platelets", "RBC", "WBC")
    assert len(dataset) == images and len(dataset.annotations.labels) == objects
    (fault,) = dataset.report
    assert Path(fault.file).name == file and fault.object_index == index and fault.kind == "box without area"
    boxes = dataset.annotations.boxes
    assert (boxes[:, 2:] > boxes[:, :2]).all() and boxes.min() == 0 and boxes[:, 2].max() == 640


def test_batches_of_real_bccd():
    dataset = open_dataset("voc", real_data("bccd"), "val", classes=["RBC", "WBC", "Platelets"])
    seen = 0
    for batch in build_loader(dataset, build_transforms("none", 300, train=False), 16, train=False):
        assert batch.images.shape[1:] == (3, 300, 300) and bool(torch.isfinite(batch.gt_boxes).all())
        for target in batch.targets():
            expected = dataset.target(dataset.index_of(target["image_id"]))
            assert torch.allclose(target["boxes"], expected["boxes"], atol=1e-3)
            assert torch.equal(target["labels"], expected["labels"])
            seen += 1
    assert seen == 87


def test_read_real_voc():
    dataset = open_dataset("voc", real_data("voc2007_mini"), "train")
    summary = dataset.summary()
    assert len(dataset.classes) == 20 and summary.images == 300 and not summary.faults
    assert summary.objects - summary.ignored == 779 and summary.ignored == 176 and summary.per_class["person"] == 247
    image, target = dataset[0]
    assert image.shape[1:] == tuple(dataset.annotations.sizes[0].tolist()) and len(target["boxes"])


def test_read_real_coco():
    dataset = open_dataset("coco", real_data("coco_cc_mini"))
    summary = dataset.summary()
    assert (summary.images, summary.empty_images, summary.objects, summary.ignored) == (33, 1, 246, 3)
    assert len(dataset.classes) == 80 and dataset.category_ids[-1] == 90 and not summary.faults
    assert len(open_dataset("coco", real_data("coco_cc_mini"), empty="drop")) == 32
    gray = dataset.load_image(dataset.index_of(86))
    assert gray.shape[0] == 3 and torch.equal(gray[0], gray[2])
    crowds = {int(dataset.annotations.image_ids[i]) for i in range(33) if dataset.target(i)["ignore"].any()}
    assert crowds == {257, 540, 544}
