"""Non-maximum suppression of one set of boxes."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torchvision

import ssd_ops
from tests.ops.boxes import assert_equal, degenerate_boxes, random_boxes, tied_boxes
from tests.ops.conftest import Implementation
from tests.ops.remembered import reference

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
SIZES = (0, 1, 2, 15, 16, 17, 40, 41, 63, 64, 65, 200, 257)
THRESHOLDS = (-0.1, 0.0, 0.1, 0.3, 0.45, 0.5, 0.7, 1.0)


def random_scores(count: int, seed: int = 0) -> torch.Tensor:
    """Returns scores with ties, zeros of both signs, NaN and inf."""
    generator = torch.Generator().manual_seed(seed)
    scores = (torch.randn(count, generator=generator) * 8).round() / 8
    odd = torch.randint(0, 12, (count,), generator=generator)
    for place, value in enumerate((float("nan"), 0.0, -0.0, float("inf"), float("-inf"))):
        scores[odd == place] = value
    return scores


def compare(impl: Implementation, boxes: torch.Tensor, scores: torch.Tensor, threshold: float) -> None:
    for equal in (False, True):
        expected = reference.nms(boxes, scores, threshold, suppress_equal=equal)
        assert_equal(impl.nms(boxes, scores, threshold, suppress_equal=equal), expected)


def test_literal(impl: Implementation) -> None:
    # IoU of boxes 0 and 1 is 2/6 = 1/3, of boxes 1 and 2 2/4 = 1/2; box 3 overlaps none.
    boxes = torch.tensor([[0.0, 0, 2, 2], [1, 0, 3, 2], [2, 0, 3, 2], [5, 5, 6, 6]])
    scores = torch.tensor([0.5, 0.9, 0.7, 0.1])
    assert impl.nms(boxes, scores, 0.4).tolist() == [1, 0, 3]
    assert impl.nms(boxes, scores, 0.5).tolist() == [1, 2, 0, 3]  # not above the threshold
    assert impl.nms(boxes, scores, 0.3).tolist() == [1, 3]
    assert impl.nms(boxes, scores, 0.5, suppress_equal=True).tolist() == [1, 0, 3]
    assert impl.nms(boxes, scores, 0.0, suppress_equal=True).tolist() == [1]  # 0 is at the threshold
    point = torch.ones(2, 4)  # has no intersection with itself: 0 / 0
    assert impl.nms(point, scores[:2], 0.0, suppress_equal=True).tolist() == [1, 0]


@pytest.mark.parametrize("size", SIZES)
def test_sizes(impl: Implementation, size: int) -> None:
    for seed, threshold in enumerate((0.1, 0.5)):
        compare(impl, random_boxes(size, seed=seed), torch.rand(size), threshold)


@pytest.mark.parametrize("threshold", THRESHOLDS)
def test_ties_and_degenerate_boxes(impl: Implementation, threshold: float) -> None:
    for seed in range(3):
        compare(impl, tied_boxes(60, seed=seed), random_scores(60, seed), threshold)
    boxes = degenerate_boxes().repeat(3, 1)
    compare(impl, boxes, random_scores(len(boxes)), threshold)
    compare(impl, boxes.double() * 1e-200, random_scores(len(boxes)).double(), threshold)


@pytest.mark.parametrize("dtype", DTYPES)
def test_dtypes(impl: Implementation, dtype: torch.dtype) -> None:
    boxes, scores = random_boxes(120, scale=100).to(dtype), random_scores(120).to(dtype)
    compare(impl, boxes, scores, 0.4)
    compare(impl, boxes, scores.double(), 0.4)
    compare(impl, boxes.double(), scores, 0.4)


def test_threshold_is_not_rounded(impl: Implementation) -> None:
    # IoU is float32(0.1), which is a little more than 0.1 and is above it.
    boxes = torch.tensor([[0.0, 0, 10, 1], [0, 0, 1, 1]])
    scores = torch.tensor([0.9, 0.8])
    assert impl.nms(boxes, scores, 0.1).tolist() == [0]
    assert impl.nms(boxes, scores, float(torch.tensor(0.1))).tolist() == [0, 1]
    for threshold, keep in ((0.1, [0]), (float(torch.tensor(0.1)), [0]), (0.1 + 2e-9, [0, 1])):
        assert impl.nms(boxes, scores, threshold, suppress_equal=True).tolist() == keep
    boxes = torch.tensor([[0.0, 0, 3, 1], [0, 0, 1, 1]], dtype=torch.float64)  # IoU is float64(1 / 3)
    assert impl.nms(boxes, scores, 1 / 3, suppress_equal=True).tolist() == [0]
    assert impl.nms(boxes, scores, 1 / 3 + 6e-17, suppress_equal=True).tolist() == [0, 1]


@pytest.mark.parametrize("scale", (1e-22, 1e-19, 1.0, 1e17))
def test_thresholds_near_the_iou(impl: Implementation, scale: float) -> None:
    # Every IoU that occurs is a threshold, and so are its neighbors. Areas are subnormal at the smallest scale.
    boxes = random_boxes(12, seed=3) * scale
    iou = reference.box_iou(boxes, boxes)
    for value in iou[iou > 0][:8]:
        for threshold in (value, torch.nextafter(value, value * 2), torch.nextafter(value, value * 0)):
            compare(impl, boxes, torch.arange(12, 0, -1.0), float(threshold))


@pytest.mark.parametrize("threshold", (0.0, 1e-45, 1e-40, 1e-30, 0.3, 0.7, 1.0, 1e30, float("inf")))
def test_boxes_of_all_magnitudes(impl: Implementation, threshold: float) -> None:
    # Areas and overlaps are subnormal, normal and near the largest number, often of one pair; many boxes are equal.
    for corner in (torch.zeros(200, 2), torch.rand(200, 2)):
        side = 10 ** torch.empty(200, 2).uniform_(-25, 19)
        side[::2, 0] = side[1::2, 0] * torch.rand(100)
        boxes = torch.cat([corner - side, corner + side], dim=1).repeat(2, 1)
        boxes[200:] *= torch.rand(200, 1)
        compare(impl, boxes, torch.rand(400), threshold)
        compare(impl, boxes.double(), torch.rand(400), threshold)


def test_areas_whose_sum_is_infinite(impl: Implementation) -> None:
    boxes = torch.tensor([[0.0, 0, 1.5e19, 1.5e19]]).repeat(3, 1)  # the union is infinite, so the IoU is 0
    assert impl.nms(boxes, torch.rand(3), 0.5).sort().values.tolist() == [0, 1, 2]
    boxes[1:, 2:] *= 0.6  # here it is not
    assert impl.nms(boxes, torch.tensor([0.9, 0.8, 0.7]), 0.3).tolist() == [0]
    boxes = torch.tensor([[-torch.inf, -torch.inf, torch.inf, torch.inf]]).repeat(2, 1)  # the IoU is inf / nan
    assert impl.nms(boxes, torch.tensor([0.9, 0.8]), 0.3).tolist() == [0, 1]


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64))
def test_scores_close_together_but_for_one(impl: Implementation, dtype: torch.dtype) -> None:
    # The leading bits of the scores, by which the CPU sorts first, distinguish only two of them.
    for count, farthest in ((1000, 1e30), (1000, -1e-30), (2600, 1e30)):
        scores = 0.5 + 1e-4 * torch.rand(count, dtype=dtype)
        scores[count // 2 :: 7] = scores[0]
        scores[count // 3] = farthest
        boxes = torch.arange(count)[:, None] * 10 + torch.tensor([0.0, 0, 1, 1])
        keep = impl.nms(boxes, scores, 0.3)
        assert_equal(keep, torch.sort(scores, descending=True, stable=True).indices)


def test_non_contiguous(impl: Implementation) -> None:
    boxes, scores = random_boxes(4, 60).transpose(0, 1)[:, 1], torch.rand(120)[::2]
    compare(impl, boxes, scores, 0.3)
    wide = random_boxes(61).flatten()[1:241].view(60, 4)  # offset by one number from a box
    compare(impl, wide, scores, 0.3)


def test_result_is_a_fixed_point(impl: Implementation) -> None:
    boxes, scores = random_boxes(200), torch.rand(200)
    keep = impl.nms(boxes, scores, 0.3)
    again = impl.nms(boxes[keep], scores[keep], 0.3)
    assert again.tolist() == list(range(len(keep)))
    order = torch.randperm(200)  # scores differ, so the order of input does not matter
    assert_equal(order[impl.nms(boxes[order], scores[order], 0.3)], keep)


def test_many_boxes() -> None:
    """Larger than the sizes at which the CPU sorts by wide digits and uses a grid, and the GPU needs several tiles."""
    scores = torch.rand(6000)
    corner = torch.rand(6000, 2) * 1000
    sides = (20 * torch.rand(6000, 2), 20 * torch.randn(6000, 2).exp(), 300 * torch.rand(6000, 2) ** 8)
    for side in sides:
        boxes = torch.cat([corner, corner + side], dim=1)
        for threshold in (0.0, 0.2, 0.5, 0.8):
            assert_equal(ssd_ops.nms(boxes, scores, threshold), torchvision.ops.nms(boxes, scores, threshold))


def test_several_tiles(impl: Implementation) -> None:
    if impl.name == "reference":
        pytest.skip("compared with")
    corner = torch.rand(2200, 2) * 3
    boxes = torch.cat([corner, corner + 0.3 * torch.rand(2200, 2)], dim=1)
    compare(impl, boxes, torch.rand(2200), 0.3)


def test_sizes_at_which_the_gpu_changes_its_algorithm(impl: Implementation) -> None:
    if impl.name == "reference":
        pytest.skip("takes long")
    for size in (1025, 2048, 2049):
        corner, scores = torch.rand(size, 2) * 300, torch.rand(size)
        boxes = torch.cat([corner, corner + 60 * torch.rand(size, 2)], dim=1)
        assert_equal(impl.nms(boxes, scores, 0.3), torchvision.ops.nms(boxes, scores, 0.3))


def test_calls_of_two_threads(impl: Implementation) -> None:
    inputs = [(random_boxes(size), torch.rand(size)) for size in (30, 90)]
    expected = [reference.nms(boxes, scores, 0.4) for boxes, scores in inputs]

    def call(i: int) -> None:
        for _ in range(10):
            assert_equal(impl.nms(*inputs[i], 0.4), expected[i])

    with ThreadPoolExecutor(2) as threads:
        for done in [threads.submit(call, i) for i in (0, 1)]:
            done.result()


def test_chains_of_suppression(impl: Implementation) -> None:
    """Each box depends on the one before it, so a GPU cannot decide all of them in parallel."""
    left = torch.arange(2200.0)[:, None]
    boxes = torch.cat([left, 0 * left, left + 3, 0 * left + 1], dim=1)  # IoU 0.5 with the next, 0.2 with the one after
    descending, shuffled = 2200 - torch.arange(2200.0), torch.randperm(2200)
    assert_equal(impl.nms(boxes, descending, 0.3), torch.arange(0, 2200, 2))
    assert_equal(impl.nms(boxes, descending, 0.1), torch.arange(0, 2200, 3))
    kept = impl.nms(boxes[shuffled], descending[shuffled], 0.3)
    assert_equal(shuffled[kept], torch.arange(0, 2200, 2))


def test_many_boxes_in_grid_cells(impl: Implementation) -> None:
    """Above 12288 boxes the GPU compares those of nearby grid cells; some boxes are in none."""
    if impl.name == "reference":
        pytest.skip("takes long")
    corner = torch.rand(12300, 2) * torch.tensor([1000.0, 300])
    boxes = torch.cat([corner, corner + 60 * torch.rand(12300, 2)], dim=1)
    boxes[::80] = degenerate_boxes().repeat(11, 1)[:154]
    scores, idxs = torch.rand(12300), torch.arange(12300) % 2
    assert_equal(impl.nms(boxes, scores, 0.3), torchvision.ops.nms(boxes, scores, 0.3))
    keep, expected = impl.batched_nms(boxes, scores, idxs, 0.2), []
    for members in (torch.arange(0, 12300, 2), torch.arange(1, 12300, 2)):
        expected.append(members[torchvision.ops.nms(boxes[members], scores[members], 0.2)])
    assert_equal(keep.sort().values, torch.cat(expected).sort().values)


def test_many_kept_boxes(impl: Implementation) -> None:
    """The GPU handles 2048 active boxes at a time, and after eight passes it checks whether any remain."""
    if impl.name == "reference":
        pytest.skip("takes long")
    cell = torch.arange(17000)
    corner = torch.stack([cell % 130, cell // 130], dim=1) * 2.0
    scores = torch.rand(17000)
    keep = impl.nms(torch.cat([corner, corner + 1], dim=1), scores, 0.5)
    assert_equal(keep, scores.sort(descending=True, stable=True).indices)


def test_no_box_is_left_after_the_first_tile(impl: Implementation) -> None:
    """Of 2048 boxes that do not overlap, the first suppresses all that follow."""
    if impl.name == "reference":
        pytest.skip("takes long")
    cell = torch.arange(2048)
    corner = torch.stack([cell % 100, cell // 100], dim=1) * 2.0
    boxes = torch.cat([torch.cat([corner, corner + 1], dim=1), torch.tensor([[0.0, 0, 1, 1]]).repeat(60, 1)])
    scores = torch.arange(len(boxes), 0, -1.0)
    assert_equal(impl.nms(boxes, scores, 0.5), cell)
    assert_equal(impl.batched_nms(boxes, scores, torch.zeros(len(boxes), dtype=torch.int64), 0.5), cell)


@pytest.mark.parametrize("threshold", THRESHOLDS)
def test_equals_torchvision(threshold: float) -> None:
    for seed in range(4):
        for boxes in (random_boxes(300, seed=seed), tied_boxes(100, seed=seed), degenerate_boxes()):
            scores = random_scores(len(boxes), seed)
            assert_equal(ssd_ops.nms(boxes, scores, threshold), torchvision.ops.nms(boxes, scores, threshold))


def test_half_precision(impl: Implementation) -> None:
    boxes, scores = random_boxes(50).half(), torch.rand(50).half()
    with pytest.raises(RuntimeError, match="Half"):
        torchvision.ops.nms(boxes, scores, 0.5)
    expected = torchvision.ops.nms(boxes.float(), scores.float(), 0.5)
    assert_equal(impl.nms(boxes, scores, 0.5), expected)


def test_integers(impl: Implementation) -> None:
    if impl.name != "reference":
        assert impl.nms(torch.tensor([[0, 0, 4, 4], [0, 0, 4, 5]]), torch.tensor([1, 2]), 0.5).tolist() == [1]


def test_compile_and_export() -> None:
    class Module(torch.nn.Module):
        def forward(self, boxes: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            return boxes[ssd_ops.nms(boxes * 2, scores, 0.5)]

    boxes, scores = random_boxes(50), torch.rand(50)
    expected = Module()(boxes, scores)
    assert_equal(torch.compile(Module(), fullgraph=True, backend="eager")(boxes, scores), expected)
    count = torch.export.Dim("count", min=2)
    exported = torch.export.export(Module(), (boxes, scores), dynamic_shapes=({0: count}, {0: count}))
    assert_equal(exported.module()(boxes[:30], scores[:30]), Module()(boxes[:30], scores[:30]))
