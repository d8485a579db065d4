"""Tests torchvision's call convention with lists: inputs, outputs, and errors that name image and box."""

import numpy as np
import pytest
import torch

from ssd import build_model
from ssd.models.torchvision_io import pack_targets, resize_images, split_detections
from ssd_ops import Detections


def test_images_are_resized_and_sizes_kept():
    images = [torch.zeros(3, 10, 20), torch.ones(3, 8, 8), torch.full((3, 30, 4), 0.5)]
    batch, sizes = resize_images(images, 8)
    assert batch.shape == (3, 3, 8, 8) and sizes == [(10, 20), (8, 8), (30, 4)]
    assert torch.equal(batch[1], images[1]) and torch.equal(batch[2], torch.full((3, 8, 8), 0.5))


def test_targets_are_packed_and_normalized():
    targets = [
        {"boxes": torch.tensor([[10.0, 5, 20, 10]]), "labels": torch.tensor([2])},
        {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)},
        {
            "boxes": torch.tensor([[0, 0, 4, 4], [1, 1, 2, 2]]),
            "labels": torch.tensor([1, 1]),
            "ignore": torch.tensor([False, True]),
        },
    ]
    boxes, labels, offsets, ignore = pack_targets(targets, [(10, 20), (7, 7), (4, 8)], 3, torch.device("cpu"))
    assert torch.equal(boxes, torch.tensor([[0.5, 0.5, 1, 1], [0, 0, 0.5, 1], [0.125, 0.25, 0.25, 0.5]]))
    assert labels.tolist() == [2, 1, 1] and offsets.tolist() == [0, 1, 1, 3] and ignore.tolist() == [False, False, True]
    assert pack_targets(targets[:2], [(10, 20), (7, 7)], 3, torch.device("cpu"))[3] is None


def test_detections_are_unpadded_and_scaled_to_pixels():
    boxes = torch.tensor([[[0.0, 0.5, 1, 1], [0, 0, 0, 0]], [[0.25, 0.25, 0.5, 0.5], [0, 0, 1, 1]]])
    found = Detections(
        boxes, torch.tensor([[0.9, 0], [0.8, 0.7]]), torch.tensor([[1, 0], [2, 1]]), torch.tensor([1, 2])
    )
    first, second = split_detections(found, [(10, 20), (4, 8)])
    assert torch.equal(first["boxes"], torch.tensor([[0.0, 5, 20, 10]])) and first["labels"].tolist() == [1]
    assert torch.equal(second["boxes"], torch.tensor([[2.0, 1, 4, 2], [0, 0, 8, 4]]))
    assert second["scores"].tolist() == pytest.approx([0.8, 0.7])


GOOD = {"boxes": torch.tensor([[1.0, 1, 5, 5]]), "labels": torch.tensor([1])}


@pytest.mark.parametrize(
    ("target", "words"),
    [
        (
            {"boxes": torch.tensor([[1.0, 1, 5, 5], [4, 4, 4, 9]]), "labels": torch.tensor([1, 1])},
            r"targets\[1\]\['boxes'\]\[1\] must be finite with x1 < x2",
        ),
        (
            {"boxes": torch.tensor([[1.0, float("nan"), 5, 5]]), "labels": torch.tensor([1])},
            r"targets\[1\]\['boxes'\]\[0\] must be finite",
        ),
        (
            {"boxes": torch.tensor([[1.0, 1, float("inf"), 5]]), "labels": torch.tensor([1])},
            r"targets\[1\]\['boxes'\]\[0\] must be finite",
        ),
        (
            {"boxes": GOOD["boxes"], "labels": torch.tensor([3])},
            r"targets\[1\]\['labels'\]\[0\] must be in 1..2 .*got 3",
        ),
        (
            {"boxes": GOOD["boxes"], "labels": torch.tensor([0])},
            r"targets\[1\]\['labels'\]\[0\] must be in 1..2 .*got 0",
        ),
        (
            {"boxes": GOOD["boxes"], "labels": torch.tensor([1, 2])},
            r"targets\[1\]\['labels'\] must have shape \[1\], got \[2\]",
        ),
        (
            {"boxes": torch.zeros(2, 5), "labels": torch.tensor([1, 2])},
            r"targets\[1\]\['boxes'\] must have shape \[G, 4\], got \[2, 5\]",
        ),
        ({"boxes": GOOD["boxes"], "labels": torch.tensor([1.0])}, r"targets\[1\]\['labels'\] must be integers"),
        ({"boxes": GOOD["boxes"]}, r"targets\[1\] must hold 'labels', got keys \['boxes'\]"),
        (
            {"boxes": np.ones((1, 4)), "labels": GOOD["labels"]},
            r"targets\[1\]\['boxes'\] must be a tensor, got numpy.ndarray; torch.as_tensor makes one",
        ),
        ([1, 2], r"targets\[1\] must be a dict of boxes and labels, got list"),
    ],
)
def test_bad_target_error_messages(target, words):
    model = build_model("ssd_tiny", 3, image_size=64).train()
    with pytest.raises(ValueError, match=words):
        model([torch.rand(3, 20, 20)] * 2, [GOOD, target])


def test_bad_call_error_messages():
    model = build_model("ssd_tiny", 3, image_size=64).train()
    with pytest.raises(ValueError, match="targets must be given in training"):
        model([torch.rand(3, 20, 20)])
    with pytest.raises(ValueError, match="targets must hold one dict for each of 2 images, got 1"):
        model([torch.rand(3, 20, 20)] * 2, [GOOD])
    with pytest.raises(ValueError, match=r"images\[1\] must have shape \[3, H, W\], got \[1, 20, 20\]"):
        model([torch.rand(3, 20, 20), torch.rand(1, 20, 20)], [GOOD, GOOD])
    with pytest.raises(TypeError, match=r"images\[0\] must be floating point in 0..1, got torch.uint8"):
        model([torch.zeros(3, 20, 20, dtype=torch.uint8)], [GOOD])
    with pytest.raises(ValueError, match="at least one image in training"):
        model([], [])
    with pytest.raises(TypeError, match="images must be uint8 or floating point"):
        model.normalize(torch.zeros(1, 3, 64, 64, dtype=torch.int64))


def test_default_device_other_than_cpu():
    with torch.device("meta"):  # has no values: nothing may be made on it
        boxes, labels, offsets, _ = pack_targets([GOOD], [(10, 20)], 3, torch.device("cpu"))
        found = Detections(boxes[None], torch.tensor([[0.9]], device="cpu"), labels[None], offsets[1:])
        split = split_detections(found, [(10, 20)])
    assert offsets.tolist() == [0, 1] and split[0]["boxes"].tolist() == [[1.0, 1, 5, 5]]
