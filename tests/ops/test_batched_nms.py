"""Non-maximum suppression of boxes of several classes."""

from __future__ import annotations

import pytest
import torch
import torchvision

import ssd_ops
from tests.ops.boxes import assert_equal, degenerate_boxes, random_boxes, tied_boxes
from tests.ops.conftest import Implementation
from tests.ops.remembered import reference

SIZES = (0, 1, 63, 64, 65, 200)


def compare(impl: Implementation, boxes, scores, idxs, threshold: float = 0.3) -> None:
    for equal in (False, True):
        expected = reference.batched_nms(boxes, scores, idxs, threshold, suppress_equal=equal)
        assert_equal(impl.batched_nms(boxes, scores, idxs, threshold, suppress_equal=equal), expected)


def test_literal(impl: Implementation) -> None:
    boxes = torch.tensor([[0.0, 0, 2, 2], [0, 0, 2, 2], [0, 0, 2, 2], [0, 0, 2, 2]])
    scores = torch.tensor([0.1, 0.9, 0.5, 0.9])
    assert impl.batched_nms(boxes, scores, torch.tensor([7, 7, -1, 0]), 0.5).tolist() == [1, 3, 2]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("classes", (1, 5, 100))
def test_sizes(impl: Implementation, size: int, classes: int) -> None:
    compare(impl, random_boxes(size), torch.rand(size), torch.randint(classes, (size,)))


def test_ties_and_degenerate_boxes(impl: Implementation) -> None:
    for threshold in (-0.1, 0.0, 0.5):
        scores = torch.randint(0, 3, (60,)).float()
        compare(impl, tied_boxes(60), scores, torch.randint(3, (60,)), threshold)
        boxes = degenerate_boxes().repeat(3, 1)
        compare(impl, boxes, scores[: len(boxes)], torch.randint(2, (len(boxes),)), threshold)


@pytest.mark.parametrize("dtype", (torch.float64, torch.float16, torch.bfloat16))
def test_dtypes(impl: Implementation, dtype: torch.dtype) -> None:
    compare(impl, random_boxes(80).to(dtype), torch.rand(80).to(dtype), torch.randint(3, (80,)))


def test_large_class_ids(impl: Implementation) -> None:
    ids = torch.tensor([torch.iinfo(torch.int64).min, -1, 0, 3, 2**40, torch.iinfo(torch.int64).max])
    compare(impl, random_boxes(90), torch.rand(90), ids[torch.randint(6, (90,))])


def test_equals_nms_class_by_class(impl: Implementation) -> None:
    boxes, scores, idxs = random_boxes(150), torch.rand(150), torch.randint(4, (150,))
    keep = impl.batched_nms(boxes, scores, idxs, 0.3)
    for label in range(4):
        members = (idxs == label).nonzero()[:, 0]
        expected = members[impl.nms(boxes[members], scores[members], 0.3)]
        assert_equal(keep[idxs[keep] == label], expected)
    assert (scores[keep].diff() <= 0).all()


@pytest.mark.parametrize("threads", (1, 2, 3))
def test_result_is_independent_of_threads(threads: int) -> None:
    boxes, scores, idxs = random_boxes(9000, scale=50), torch.rand(9000), torch.randint(30, (9000,))
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        keep = ssd_ops.batched_nms(boxes, scores, idxs, 0.5)
    finally:
        torch.set_num_threads(before)
    expected = torch.zeros(9000, dtype=torch.bool)
    for label in range(30):
        members = (idxs == label).nonzero()[:, 0]
        expected[members[torchvision.ops.nms(boxes[members], scores[members], 0.5)]] = True
    assert_equal(keep.sort().values, expected.nonzero()[:, 0])
    assert (scores[keep].diff() <= 0).all()


def test_equals_torchvision() -> None:
    boxes, scores, idxs = random_boxes(400), torch.rand(400), torch.randint(5, (400,))
    for threshold in (0.1, 0.5, 0.9):
        expected = torchvision.ops.batched_nms(boxes, scores, idxs, threshold)
        assert_equal(ssd_ops.batched_nms(boxes, scores, idxs, threshold), expected)


# torchvision moves the classes apart by adding class * (largest coordinate + 1) to the boxes, which fails where all
# coordinates are negative (a shift below 0 or less than a box), and rounds away small overlaps for large class ids.
def test_negative_coordinates_where_torchvision_is_wrong(impl: Implementation) -> None:
    boxes = torch.tensor([[-10.0, -10, -1, -1], [-10, -10, -1, -1]])
    scores, idxs = torch.tensor([0.9, 0.8]), torch.tensor([0, 1])
    assert torchvision.ops.batched_nms(boxes, scores, idxs, 0.5).tolist() == [0]
    assert impl.batched_nms(boxes, scores, idxs, 0.5).tolist() == [0, 1]


def test_large_class_id_where_torchvision_is_wrong(impl: Implementation) -> None:
    boxes = torch.tensor([[0.0, 0, 0.10, 0.10], [0, 0, 0.10, 0.12], [4000, 4000, 4000.5, 4000.5]])
    scores, idxs = torch.tensor([0.9, 0.8, 0.7]), torch.tensor([1000, 1000, 1])
    assert torchvision.ops.batched_nms(boxes, scores, idxs, 0.8).tolist() == [0, 1, 2]
    assert impl.batched_nms(boxes, scores, idxs, 0.8).tolist() == [0, 2]


def test_half_precision(impl: Implementation) -> None:
    boxes = (random_boxes(60, scale=600)).half()  # class 90 would be moved beyond the largest half
    scores, idxs = torch.rand(60).half(), torch.randint(0, 91, (60,))
    compare(impl, boxes, scores, idxs)


def test_integer_classes_of_other_dtypes() -> None:
    boxes, scores, idxs = random_boxes(40), torch.rand(40), torch.randint(3, (40,))
    assert_equal(ssd_ops.batched_nms(boxes, scores, idxs.int(), 0.3), ssd_ops.batched_nms(boxes, scores, idxs, 0.3))


def test_compile_and_export() -> None:
    args = (random_boxes(20), torch.rand(20), torch.randint(3, (20,)), 0.5)
    compiled = torch.compile(ssd_ops.batched_nms, fullgraph=True, backend="eager")
    assert_equal(compiled(*args), ssd_ops.batched_nms(*args))
    boxes = random_boxes(2000)  # torchvision's does not export from 4000 numbers on

    class Module(torch.nn.Module):
        def forward(self, boxes: torch.Tensor, scores: torch.Tensor, idxs: torch.Tensor) -> torch.Tensor:
            return ssd_ops.batched_nms(boxes, scores, idxs, 0.5)

    inputs = (boxes, torch.rand(2000), torch.randint(3, (2000,)))
    assert_equal(torch.export.export(Module(), inputs).module()(*inputs), Module()(*inputs))


@pytest.mark.parametrize("dtype", [torch.float32, torch.int32])
def test_too_many_boxes_raise_before_memory_is_allocated(dtype: torch.dtype) -> None:
    boxes = torch.zeros(1, 4, dtype=dtype).expand(2**31, 4)
    idxs = torch.zeros(1).expand(2**31)
    for function in (ssd_ops.nms, lambda boxes, scores, threshold: ssd_ops.batched_nms(boxes, scores, idxs, threshold)):
        with pytest.raises(RuntimeError, match=r"^boxes must have fewer than 2147483648 rows, got 2147483648$"):
            function(boxes, idxs, 0.5)
