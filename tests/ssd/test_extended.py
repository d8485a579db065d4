"""Tests images extended by reflection, and the average of detections over them."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from ssd.inference.engine import InferenceEngine
from ssd.models import SSD
from ssd.models.extended import extended, extended_averaged, merged, restored
from ssd.models.flipped import flip_averaged
from ssd_ops import Detections
from tests.ssd.small_detectors import spread_detector


def detections(rows: list[tuple[list[float], float, int]], padding: int = 0) -> Detections:
    boxes, scores, labels = zip(*rows, *[([0.0] * 4, 0.0, 0)] * padding, strict=True)
    return Detections(torch.tensor([boxes]), torch.tensor([scores]), torch.tensor([labels]), torch.tensor([len(rows)]))


def test_extended_image_continues_by_its_reflection() -> None:
    image = torch.arange(100.0).expand(1, 3, 100, 100)
    wide = extended(image)
    # pixel x shows column (x + 0.5) * 1.1 - 5.5 of the image
    assert wide.shape == image.shape
    torch.testing.assert_close(wide[0, 0, 0, [50, 94]], torch.tensor([50.05, 98.45]))
    assert 4 < float(wide[0, 0, 0, 0]) < 5 and 94 < float(wide[0, 0, 0, 99]) < 95


def test_boxes_of_extended_image_are_clipped_to_the_image() -> None:
    margin, wide = 5, 110
    inside = [(10 + margin) / wide, (20 + margin) / wide, (60 + margin) / wide, (70 + margin) / wide]
    across, beyond = [0.0, 0.5, (30 + margin) / wide, 0.75], [0.0, 0.0, 0.05, 1.0]
    found = restored(detections([(inside, 0.9, 1), (across, 0.8, 2), (beyond, 0.7, 1)]), 100)
    expected = [[0.1, 0.2, 0.6, 0.7], [0.0, 0.5, 0.3, 0.775], [0.0] * 4]
    torch.testing.assert_close(found.boxes[0], torch.tensor(expected))
    torch.testing.assert_close(found.scores[0], torch.tensor([0.9, 0.8, 0.0]))
    assert found.labels.tolist() == [[1, 2, 1]]


def test_objects_of_both_views_have_mean_scores_and_boxes() -> None:
    first = detections([([0.0, 0.0, 0.4, 0.4], 0.9, 1), ([0.5, 0.5, 0.9, 0.9], 0.5, 2)], padding=1)
    second = detections(
        [([0.5, 0.5, 0.9, 0.9], 0.7, 2), ([0.0, 0.0, 0.4, 0.5], 0.3, 1), ([0.5, 0.5, 0.9, 0.9], 0.4, 1)]
    )
    found = merged(first, second)
    assert found.counts.tolist() == [3] and found.labels.tolist() == [[1, 2, 1]]
    torch.testing.assert_close(found.scores[0], torch.tensor([0.6, 0.6, 0.2]))
    torch.testing.assert_close(found.boxes[0, 0], torch.tensor([0.0, 0.0, 0.4, 0.425]))
    torch.testing.assert_close(found.boxes[0, 1:], torch.tensor([[0.5, 0.5, 0.9, 0.9]] * 2))


def test_objects_that_overlap_in_each_view_remain_apart() -> None:
    """As Soft-NMS leaves them; a weak box close to the better one of an object does not take its place."""
    one, two, weak = [0.0, 0.0, 0.4, 0.4], [0.0, 0.1, 0.4, 0.5], [0.0, 0.0, 0.4, 0.39]
    first = detections([(one, 0.9, 1), (two, 0.5, 1), (weak, 0.1, 1)])
    second = detections([(weak, 0.7, 1), (two, 0.3, 1)], padding=1)
    found = merged(first, second)
    assert found.counts.tolist() == [3] and found.labels.tolist() == [[1, 1, 1]]
    torch.testing.assert_close(found.scores[0], torch.tensor([0.8, 0.4, 0.05]))
    torch.testing.assert_close(found.boxes[0, 1:], torch.tensor([two, weak]))


def test_merged_detections_end_in_zeros_and_one_bad_box_changes_no_other() -> None:
    first = detections([([0.0, 0.0, 0.4, 0.4], 0.8, 1), ([float("nan")] * 4, 0.6, 1)], padding=2)
    second = detections([([0.5, 0.5, 0.9, 0.9], 0.4, 2), ([0.0] * 4, 0.0, 1)], padding=2)
    boxes, scores, labels, counts = merged(first, second)
    assert counts.tolist() == [3] and labels.tolist() == [[1, 1, 2, 0]]
    torch.testing.assert_close(scores, torch.tensor([[0.4, 0.3, 0.2, 0.0]]))
    torch.testing.assert_close(
        boxes[0, [0, 2, 3]], torch.cat((first.boxes[0, :1], second.boxes[0, :1], torch.zeros(1, 4)))
    )


@pytest.fixture(scope="module")
def model() -> SSD:
    return spread_detector(score_threshold=0.3)


@pytest.fixture(scope="module")
def image() -> Tensor:
    return torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_averaged_detector_merges_both_views(model: SSD, image: Tensor) -> None:
    averaged, flipped = extended_averaged(model), flip_averaged(model)
    (found,) = InferenceEngine(averaged, dtype=torch.float32).predict([image])
    with torch.no_grad():
        x = model.normalize(image[None])
        views = [_detect(flipped, view, clip) for view, clip in ((x, True), (extended(x), False))]
    expected = merged(views[0], restored(views[1], 64))
    count = int(expected.counts)
    assert type(model) is SSD and count and len(found["scores"]) == count
    torch.testing.assert_close(found["scores"], expected.scores[0, :count], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_finds_the_same(model: SSD, image: Tensor, dtype: torch.dtype) -> None:
    dtypes = (dtype, torch.float32)
    found, expected = (InferenceEngine(extended_averaged(model), dtype=t).predict([image])[0] for t in dtypes)
    torch.testing.assert_close(found["scores"][:20], expected["scores"][:20], atol=0.02, rtol=0)


@pytest.mark.cuda
def test_cuda_graph_finds_the_same(model: SSD, image: Tensor) -> None:
    on_gpu = copy.deepcopy(model).cuda()
    torch.backends.cudnn.allow_tf32, before = False, torch.backends.cudnn.allow_tf32
    try:
        (found,) = InferenceEngine(extended_averaged(on_gpu), dtype=torch.float32).predict([image])
    finally:
        torch.backends.cudnn.allow_tf32 = before
    (expected,) = InferenceEngine(extended_averaged(model), dtype=torch.float32).predict([image])
    torch.testing.assert_close(found["scores"][:20], expected["scores"][:20], atol=1e-3, rtol=0)


def _detect(model: SSD, images: Tensor, clip: bool) -> Detections:
    return model.detect(*model.forward_raw(images), model.preset.replace(clip_boxes=clip))
