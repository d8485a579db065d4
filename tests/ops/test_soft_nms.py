"""Soft-NMS: scores decay with overlap. The linear method is exact; the gaussian one passes through exp."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

import ssd_ops
from tests.ops.boxes import assert_all_equal, assert_equal, degenerate_boxes, random_boxes, tied_boxes
from tests.ops.conftest import Implementation
from tests.ops.remembered import reference

PLAIN = {"method": "linear", "iou_threshold": 0.3, "score_threshold": 0.1, "max_detections": 12}
# exp differs by 2 units of the last place between libraries, and a score is lowered a dozen times at most.
EXP = {"rtol": 1e-5, "atol": 1e-6}


def compare(impl: Implementation, boxes: torch.Tensor, scores: torch.Tensor, **options: Any) -> None:
    options = {**PLAIN, **options}
    expected = reference.soft_nms(boxes, scores, **options)
    found = impl.soft_nms(boxes, scores, **options)
    if options["method"] == "linear":
        assert_all_equal(found, expected)
        return
    # Scores of random inputs differ by more than exp does, so the order is the same.
    assert_equal(found.counts, expected.counts)
    assert_equal(found.labels, expected.labels)
    assert_equal(found.boxes, expected.boxes)
    torch.testing.assert_close(found.scores, expected.scores, **EXP)


def test_literal(impl: Implementation) -> None:
    # Box 1 has IoU 1/2 with box 0; box 2 overlaps none.
    boxes = torch.tensor([[[0.0, 0, 2, 2], [0, 0, 2, 1], [5, 5, 6, 6]]])
    scores = torch.tensor([[[0.0, 0.8], [0, 0.6], [0, 0.4]]])
    found = impl.soft_nms(boxes, scores, **PLAIN)
    assert found.counts.tolist() == [3]
    assert_equal(found.boxes[0, :3], boxes[0, [0, 2, 1]])
    torch.testing.assert_close(found.scores[0, :3], torch.tensor([0.8, 0.4, 0.3]))
    found = impl.soft_nms(boxes, scores, **{**PLAIN, "method": "gaussian", "sigma": 0.5})
    torch.testing.assert_close(
        found.scores[0, :3], torch.tensor([0.8, 0.4, 0.6 * math.exp(-0.5)]).sort(descending=True)[0]
    )
    found = impl.soft_nms(boxes, scores, **{**PLAIN, "score_threshold": 0.35})
    assert found.counts.tolist() == [2]


@pytest.mark.parametrize("method", ("linear", "gaussian"))
@pytest.mark.parametrize("count", (1, 63, 64, 65, 150))
def test_sizes(impl: Implementation, method: str, count: int) -> None:
    compare(impl, random_boxes(2, count), torch.rand(2, count, 3), method=method)
    compare(impl, random_boxes(1, count, 2), torch.rand(1, count, 2), method=method, max_detections=count)


def test_many_classes(impl: Implementation) -> None:
    compare(impl, random_boxes(1, 20), torch.rand(1, 20, 35), max_detections=60)


@pytest.mark.parametrize("shape", ((0, 5, 3), (2, 0, 3), (2, 5, 0), (2, 5, 1)))
def test_empty(impl: Implementation, shape: tuple[int, int, int]) -> None:
    compare(impl, torch.rand(*shape[:2], 4), torch.rand(shape))


@pytest.mark.parametrize("threshold", (-9.0, -0.5, 0.0, 0.5))
def test_ties_and_non_finite_scores(impl: Implementation, threshold: float) -> None:
    scores = torch.randint(-2, 3, (2, 48, 3)) / 2.0
    scores[0, :, 1] = torch.tensor([float("nan"), float("inf"), -float("inf"), 0.0, -0.0, 1e-45]).repeat(8)
    for boxes in (tied_boxes(2, 48), degenerate_boxes().repeat(3, 1).expand(2, 48, 4)):
        compare(impl, boxes, scores, score_threshold=threshold)


@pytest.mark.parametrize("dtype", (torch.float64, torch.float16, torch.bfloat16))
def test_dtypes(impl: Implementation, dtype: torch.dtype) -> None:
    boxes, scores = random_boxes(2, 40), torch.rand(2, 40, 3)
    for one, other in ((dtype, dtype), (torch.float32, dtype), (dtype, torch.float32)):
        compare(impl, boxes.to(one), scores.to(other))


def test_non_contiguous(impl: Implementation) -> None:
    compare(impl, random_boxes(40, 2).transpose(0, 1), torch.rand(3, 40, 2).permute(2, 1, 0))


def test_final_scores_never_exceed_initial_scores(impl: Implementation) -> None:
    boxes, scores = random_boxes(1, 60), torch.rand(1, 60, 2)
    found = impl.soft_nms(boxes, scores, **{**PLAIN, "method": "gaussian", "max_detections": 60, "score_threshold": 0})
    place = (found.boxes[0, :, None] == boxes[0]).all(-1).int().argmax(1)
    assert (found.scores[0] <= scores[0, place, 1]).all()
    assert place.unique().numel() == 60  # every box, once


def test_compile() -> None:
    boxes, scores = random_boxes(2, 20), torch.rand(2, 20, 3)
    compiled = torch.compile(ssd_ops.soft_nms, fullgraph=True, backend="eager")
    assert_all_equal(compiled(boxes, scores, **PLAIN), ssd_ops.soft_nms(boxes, scores, **PLAIN))
