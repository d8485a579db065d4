"""Detections of a batch from scores and boxes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torchvision

import ssd_ops
from tests.ops.boxes import assert_all_equal, assert_equal, degenerate_boxes, random_boxes, tied_boxes
from tests.ops.conftest import Implementation
from tests.ops.remembered import reference

PLAIN = {"score_threshold": 0.3, "iou_threshold": 0.4, "candidates_per_class": 20, "max_detections": 10}
COUNTS = (1, 63, 64, 65, 200)


def compare(impl: Implementation, boxes: torch.Tensor, scores: torch.Tensor, **options: Any) -> ssd_ops.Detections:
    options = {**PLAIN, **options}
    expected = reference.multiclass_nms(boxes, scores, **options)
    assert_all_equal(impl.multiclass_nms(boxes, scores, **options), expected)
    return expected


def test_literal(impl: Implementation) -> None:
    # Class 1: box 1 suppresses box 0, box 2 is below the threshold. Class 2: boxes 0 and 2 do not overlap.
    boxes = torch.tensor([[[0.0, 0, 1, 1], [0, 0, 1, 1.25], [3, 3, 4, 4]]])
    scores = torch.tensor([[[0.9, 0.5, 0.7], [0.9, 0.6, 0.3], [0.9, 0.2, 0.6]]])
    options = {"score_threshold": 0.3, "iou_threshold": 0.5, "candidates_per_class": 3, "max_detections": 4}
    found = impl.multiclass_nms(boxes, scores, **options)
    assert found.counts.tolist() == [3]
    assert found.labels.tolist() == [[2, 1, 2, 0]]
    assert_equal(found.scores, torch.tensor([[0.7, 0.6, 0.6, 0]]))
    assert_equal(found.boxes[0], torch.stack([boxes[0, 0], boxes[0, 1], boxes[0, 2], torch.zeros(4)]))


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("classes", (1, 2, 5))
def test_sizes(impl: Implementation, count: int, classes: int) -> None:
    compare(impl, random_boxes(2, count), torch.rand(2, count, classes))
    compare(impl, random_boxes(2, count, classes), torch.rand(2, count, classes), max_detections=COUNTS[-1])


@pytest.mark.parametrize("shape", ((0, 5, 3), (2, 0, 3), (2, 5, 0), (2, 5, 1)))
def test_empty(impl: Implementation, shape: tuple[int, int, int]) -> None:
    found = compare(impl, torch.rand(*shape[:2], 4), torch.rand(shape))
    assert found.counts.tolist() == [0] * shape[0]


@pytest.mark.parametrize("candidates", (1, 3, 400))
@pytest.mark.parametrize("max_detections", (1, 7, 500))
def test_limits(impl: Implementation, candidates: int, max_detections: int) -> None:
    scores = torch.rand(2, 90, 4)
    compare(impl, random_boxes(2, 90), scores, candidates_per_class=candidates, max_detections=max_detections)


@pytest.mark.parametrize("threshold", (-9.0, -0.5, 0.0, 0.5))
def test_ties_and_non_finite_scores(impl: Implementation, threshold: float) -> None:
    scores = torch.randint(-2, 3, (2, 60, 3)) / 2.0
    scores[0, :, 1] = torch.tensor([float("nan"), float("inf"), -float("inf"), 0.0, -0.0, 1e-45]).repeat(10)
    for iou_threshold in (-0.1, 0.0, 0.5):
        options = {"score_threshold": threshold, "iou_threshold": iou_threshold, "max_detections": 70}
        compare(impl, tied_boxes(2, 60), scores, **options)
        compare(impl, tied_boxes(2, 60), scores, **options, suppress_equal=True)
        compare(impl, degenerate_boxes().repeat(4, 1)[:60].expand(2, 60, 4), scores, **options)


@pytest.mark.parametrize("dtype", (torch.float64, torch.float16, torch.bfloat16))
def test_dtypes(impl: Implementation, dtype: torch.dtype) -> None:
    boxes, scores = random_boxes(2, 50), torch.rand(2, 50, 4)
    for one, other in ((dtype, dtype), (torch.float32, dtype), (dtype, torch.float32)):
        compare(impl, boxes.to(one), scores.to(other))


def test_threshold_is_not_rounded(impl: Implementation) -> None:
    scores = torch.tensor([[[0.0, 0.1]]])  # float32(0.1) is a little above 0.1
    boxes = torch.tensor([[[0.0, 0, 1, 1]]])
    assert compare(impl, boxes, scores, score_threshold=0.1).counts.tolist() == [1]
    assert compare(impl, boxes, scores, score_threshold=float(scores[0, 0, 1])).counts.tolist() == [0]


@pytest.mark.parametrize("candidates", (3, 20))
@pytest.mark.parametrize("min_size", (0.0, 1e-300, 0.1, 1.0, 2.0, float("inf")))
def test_min_size(impl: Implementation, min_size: float, candidates: int) -> None:
    options = {"min_size": min_size, "candidates_per_class": candidates, "score_threshold": -9.0, "max_detections": 150}
    for boxes in (random_boxes(2, 70), tied_boxes(2, 70), degenerate_boxes().repeat(5, 1)[:70].expand(2, 70, 4)):
        compare(impl, boxes, torch.rand(2, 70, 3), **options)
        compare(impl, boxes.double(), torch.rand(2, 70, 3), **options)


def test_small_boxes_are_no_candidates(impl: Implementation) -> None:
    # Box 0 is 0.1 wide, and float32(0.1) is a little more than 0.1; boxes 1 and 2 are not 0.1 high.
    boxes = torch.tensor([[[0.0, 0, 0.1, 1], [2, 2, 3, 2.05], [2, 2, 3, 2], [4, 4, 5, 5]]])
    scores = torch.tensor([[[0.0, 0.9], [0, 0.8], [0, 0.7], [0, 0.6]]])
    options = {"score_threshold": 0.1, "iou_threshold": 0.5, "candidates_per_class": 2, "max_detections": 4}
    assert impl.multiclass_nms(boxes, scores, **options).scores.tolist()[0] == [*scores[0, :2, 1].tolist(), 0, 0]
    found = impl.multiclass_nms(boxes, scores, min_size=0.1, **options)
    assert found.counts.tolist() == [2] and found.scores.tolist()[0] == [*scores[0, [0, 3], 1].tolist(), 0, 0]
    found = impl.multiclass_nms(boxes, scores, min_size=0.1 + 2e-9, **options)
    assert found.counts.tolist() == [1]


def test_non_contiguous(impl: Implementation) -> None:
    boxes, scores = random_boxes(40, 2).transpose(0, 1), torch.rand(3, 40, 2).permute(2, 1, 0)
    compare(impl, boxes, scores)


def test_image_by_image(impl: Implementation) -> None:
    boxes, scores = random_boxes(5, 70), torch.rand(5, 70, 3)
    together = impl.multiclass_nms(boxes, scores, **PLAIN)
    alone = [impl.multiclass_nms(boxes[i : i + 1], scores[i : i + 1], **PLAIN) for i in range(5)]
    assert_all_equal(together, [torch.cat(parts) for parts in zip(*alone, strict=True)])


def test_sorted_chunks(impl: Implementation) -> None:
    """More candidates than a sorted chunk of the GPU (1024) holds, with enough suppression to need several."""
    boxes = random_boxes(1, 700) * 0.2 + 0.4
    compare(impl, boxes, torch.rand(1, 700, 4), score_threshold=0, candidates_per_class=700, max_detections=400)


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64))
def test_sorted_chunks_of_tied_scores(impl: Implementation, dtype: torch.dtype) -> None:
    """The bound of a chunk is where it is not expected: above 1, among tied scores, below 0."""
    boxes = random_boxes(1, 700)
    options = {"candidates_per_class": 700, "iou_threshold": 0.3, "max_detections": 1500}
    for scores in (
        torch.rand(1, 700, 4) + 5,
        torch.full((1, 700, 4), 0.5),
        torch.rand(1, 700, 4).round(decimals=1) * 2 - 1,
        torch.exp(100 * torch.rand(1, 700, 4) - 50),
        torch.where(torch.rand(1, 700, 4) < 0.9, float("inf"), 0.5),
    ):
        compare(impl, boxes, scores.to(dtype), score_threshold=-2.0, **options)
        compare(impl, boxes, scores.to(dtype), score_threshold=0.4, **options)


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64))
@pytest.mark.parametrize("threshold", (-5.0, 0.0, 0.25))
def test_more_candidates_than_capacity(impl: Implementation, threshold: float, dtype: torch.dtype) -> None:
    """The GPU skips candidates that 4096 others precede; in image 1 a crowd among those makes a refill necessary."""
    boxes, scores = random_boxes(3, 2600).to(dtype), torch.rand(3, 2600, 3).to(dtype)
    boxes[1, 10:], scores[1, :10] = torch.tensor([5.0, 5, 6, 6]), 0.3 + torch.rand(10, 3) * 0.01
    scores[1, 10:] += 0.4
    scores[2] = scores[2].round(decimals=2) * 3 - 1
    options = {"iou_threshold": 0.2, "candidates_per_class": 2600, "max_detections": 30}
    found = compare(impl, boxes, scores, score_threshold=threshold, **options)
    assert 2 < found.counts[1] <= 22


@pytest.mark.parametrize("threads", (1, 2, 5))
def test_sorted_chunks_and_threads_of_the_cpu(threads: int) -> None:
    """More candidates than the CPU holds at once (8192), in whole images and in parts of one."""
    boxes, scores = random_boxes(1, 4000) * 0.1 + 0.4, torch.rand(1, 4000, 31)
    options = {"score_threshold": 0.0, "iou_threshold": 0.2, "candidates_per_class": 4000, "max_detections": 300}
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = ssd_ops.multiclass_nms(boxes, scores, **options)
    finally:
        torch.set_num_threads(before)
    kept = []
    for label in range(1, 31):
        keep = torchvision.ops.nms(boxes[0], scores[0, :, label], 0.2)
        kept += [(-float(scores[0, i, label]), label, int(i)) for i in keep]
    kept.sort()
    count = min(len(kept), 300)
    assert found.counts.tolist() == [count]
    assert found.labels[0, :count].tolist() == [label for _, label, _ in kept[:count]]
    assert_equal(found.boxes[0, :count], boxes[0, [row for _, _, row in kept[:count]]])


def test_compile() -> None:
    boxes, scores = random_boxes(2, 20), torch.rand(2, 20, 3)
    compiled = torch.compile(ssd_ops.multiclass_nms, fullgraph=True, backend="eager")
    assert_all_equal(compiled(boxes, scores, **PLAIN), ssd_ops.multiclass_nms(boxes, scores, **PLAIN))
