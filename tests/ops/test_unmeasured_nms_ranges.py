"""NMS of more than 10,240 boxes by the kernels that no GPU has run: emulated, and on a GPU where they are switched on."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from tests.emu.schedules import same_under_all
from tests.ops.boxes import assert_equal, degenerate_boxes, tied_boxes
from tests.ops.conftest import Implementation
from tests.ops.test_unmeasured_nms import CLASSES, around_objects, check, crowded, expected

pytestmark = pytest.mark.parametrize("impl", ["emulated", pytest.param("cuda", marks=pytest.mark.cuda)], indirect=True)
SIZE = 10241  # the smallest
LARGEST = 131072
SMALL, LARGE = 2048, 23552  # active boxes of a range


@pytest.fixture(autouse=True)
def _switched_on(impl: Implementation, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU the library reads the variable once, so whoever starts the tests decides."""
    if impl.name == "emulated":
        monkeypatch.setenv("SSD_OPS_UNMEASURED_KERNELS", "1")


def isolated(count: int) -> Tensor:
    """Returns boxes [N, 4] that do not overlap."""
    cell = torch.arange(count)
    corner = torch.stack([cell % 130, cell // 130], dim=1) * 2.0
    return torch.cat([corner, corner + 1], dim=1)


@pytest.mark.parametrize("classes", CLASSES)
def test_classes(impl: Implementation, classes: str) -> None:
    idxs = CLASSES[classes](SIZE)
    check(impl, crowded(SIZE, side=400), torch.rand(SIZE), idxs, 0.4)
    check(impl, around_objects(SIZE), torch.rand(SIZE), idxs, 0.6)


@pytest.mark.parametrize("threshold", (-0.1, 0.0, 1e-40, 0.5, 1.0))
@pytest.mark.parametrize("classes", ("without", "90"))
def test_thresholds_ties_and_degenerate_boxes(impl: Implementation, threshold: float, classes: str) -> None:
    count = 16 * 645
    boxes = torch.cat([tied_boxes(5160), degenerate_boxes().repeat(300, 1), around_objects(360)])
    boxes, scores = boxes[torch.randperm(count)], torch.randint(0, 8, (count,)).float()
    scores[::50] = math.nan
    scores[7::50] = -math.inf
    check(impl, boxes, scores, CLASSES[classes](count), threshold)


@pytest.mark.parametrize("dtype", (torch.float64, torch.float16, torch.bfloat16))
@pytest.mark.parametrize("classes", ("without", "90"))
def test_dtypes(impl: Implementation, dtype: torch.dtype, classes: str) -> None:
    boxes, scores, idxs = crowded(SIZE, side=400).to(dtype), torch.randn(SIZE).to(dtype), CLASSES[classes](SIZE)
    check(impl, boxes, scores, idxs, 0.5)


def test_equal_boxes(impl: Implementation) -> None:
    boxes, scores = torch.tensor([[1.0, 1, 2, 2]]).repeat(SIZE, 1), torch.rand(SIZE).round(decimals=2)
    for classes in ("without", "one", "90", "each its own"):
        check(impl, boxes, scores, CLASSES[classes](SIZE), 0.5)
    check(impl, boxes * math.nan, scores, CLASSES["90"](SIZE), 0.5)


@pytest.mark.parametrize("count", (12289, SMALL + LARGE - 1, SMALL + LARGE, SMALL + LARGE + 1, SMALL + 3 * LARGE))
def test_ranges_of_kept_boxes(impl: Implementation, count: int) -> None:
    """The last range is full or has one box; after three, the host checks whether boxes are left."""
    scores = torch.rand(count)
    assert_equal(impl.nms(isolated(count), scores, 0.5), scores.sort(descending=True, stable=True).indices)


def test_small_ranges(impl: Implementation) -> None:
    """All pairs are near each other, and hardly any suppresses the other."""
    boxes = torch.tensor([0.0, 0, 100, 100]) + torch.rand(SIZE, 4)
    check(impl, boxes, torch.rand(SIZE), None, 0.995)


def test_crowd_after_a_range_of_isolated_boxes(impl: Implementation) -> None:
    """A large range follows, of boxes that all suppress each other: more tiles than there is capacity for."""
    boxes = isolated(12000)
    boxes[3000:] = torch.tensor([-9.0, -9, -5, -5]) + torch.rand(9000, 4) / 9
    mixed = torch.randperm(12000)
    check(impl, boxes[mixed], -mixed.float(), None, 0.5)
    check(impl, boxes[mixed], -mixed.float(), mixed % 2, 0.5)


def test_chains_of_suppression(impl: Implementation) -> None:
    """Each box depends on the one before it, which is one of another group for every 32nd."""
    left = torch.arange(5200.0)[:, None]
    chain = torch.cat([left, 0 * left, left + 3, 0 * left + 1], dim=1)  # IoU 0.5 with the next
    boxes, idxs = torch.cat([chain, chain]), torch.arange(10400) // 5200 - 1
    mixed = torch.randperm(10400)
    check(impl, boxes[mixed], (10400 - torch.arange(10400.0))[mixed], idxs[mixed], 0.3)


def test_largest(impl: Implementation) -> None:
    boxes, scores, idxs = around_objects(LARGEST, objects=200), torch.rand(LARGEST), CLASSES["90"](LARGEST)
    assert_equal(impl.batched_nms(boxes, scores, idxs, 0.4), expected(boxes, scores, idxs, 0.4))


@pytest.mark.parametrize("classes", ("without", "90", "5000"))
def test_result_is_independent_of_the_schedule(impl: Implementation, classes: str) -> None:
    boxes, scores, idxs = crowded(SIZE, side=200), torch.rand(SIZE).round(decimals=2), CLASSES[classes](SIZE)

    def call() -> Tensor:
        return impl.nms(boxes, scores, 0.6) if idxs is None else impl.batched_nms(boxes, scores, idxs, 0.6)

    assert_equal(same_under_all(call), expected(boxes, scores, idxs, 0.6))
