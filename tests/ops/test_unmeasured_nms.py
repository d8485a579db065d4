"""NMS of 2049 to 10,240 boxes by the kernels that no GPU has run: emulated, and on a GPU where they are switched on."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torchvision
from torch import Tensor

from tests.emu.schedules import same_under_all
from tests.ops.boxes import assert_equal, degenerate_boxes, tied_boxes
from tests.ops.conftest import Implementation

pytestmark = pytest.mark.parametrize("impl", ["emulated", pytest.param("cuda", marks=pytest.mark.cuda)], indirect=True)
SIZE = 2049  # the smallest
LARGEST = 10240


@pytest.fixture(autouse=True)
def _switched_on(impl: Implementation, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU the library reads the variable once, so whoever starts the tests decides."""
    if impl.name == "emulated":
        monkeypatch.setenv("SSD_OPS_UNMEASURED_KERNELS", "1")


def crowded(count: int, side: float = 100.0) -> Tensor:
    """Returns boxes [N, 4] of which many overlap."""
    corner = torch.rand(count, 2) * side
    return torch.cat([corner, corner + 1 + torch.rand(count, 2) * 12], dim=1)


def around_objects(count: int, objects: int = 20) -> Tensor:
    """Returns boxes [N, 4] around a few objects."""
    return crowded(objects)[torch.randint(objects, (count,))] + torch.randn(count, 4)


def expected(boxes: Tensor, scores: Tensor, idxs: Tensor | None, threshold: float, equal: bool = False) -> Tensor:
    """Returns the indices that torchvision keeps of each class; all by descending scores, ties to the lowest index."""
    if equal:
        threshold = math.nextafter(threshold, -math.inf) if threshold > 0 else -1.0
    kept = torch.zeros(len(boxes), dtype=torch.bool)
    wide = boxes.double() if boxes.dtype == torch.float64 else boxes.float()
    labels = torch.zeros(len(boxes), dtype=torch.int64) if idxs is None else idxs
    order = labels.argsort(stable=True)
    for members in order.split(torch.unique(labels, return_counts=True)[1].tolist()):
        # torchvision wants one dtype; the order of scores is all that it uses of them
        by_score = members[scores[members].argsort(descending=True, stable=True)]
        descending = torch.arange(len(members), 0, -1, dtype=wide.dtype)
        kept[by_score[torchvision.ops.nms(wide[by_score], descending, threshold)]] = True
    ranked = scores.argsort(descending=True, stable=True)
    return ranked[kept[ranked]]


def check(impl: Implementation, boxes: Tensor, scores: Tensor, idxs: Tensor | None, threshold: float) -> None:
    for equal in (False, True):
        if idxs is None:
            kept = impl.nms(boxes, scores, threshold, suppress_equal=equal)
        else:
            kept = impl.batched_nms(boxes, scores, idxs, threshold, suppress_equal=equal)
        assert_equal(kept, expected(boxes, scores, idxs, threshold, equal))


EXTREMES = torch.tensor([torch.iinfo(torch.int64).min, -(2**40), -1, 0, 3, 2**40, torch.iinfo(torch.int64).max])
CLASSES: dict[str, Callable[[int], Tensor | None]] = {
    "without": lambda count: None,
    "one": lambda count: torch.full((count,), -5),
    "two": lambda count: torch.arange(count) % 2,
    "a rare one": lambda count: (torch.arange(count) == count // 2).long(),
    "90": lambda count: torch.randint(90, (count,)),
    "5000": lambda count: torch.randint(5000, (count,)),
    "each its own": torch.randperm,
    "negative and huge": lambda count: EXTREMES[torch.randint(len(EXTREMES), (count,))],
    "multiples of 2 ** 40": lambda count: torch.randint(-300, 300, (count,)) * 2**40,
    # The kernel numbers the classes of every second box.
    "not in the sample": lambda count: torch.where(torch.arange(count) % 2 == 0, 7, torch.arange(count) % 50),
}


@pytest.mark.parametrize("classes", CLASSES)
def test_classes(impl: Implementation, classes: str) -> None:
    idxs = CLASSES[classes](SIZE)
    for boxes in (crowded(SIZE), around_objects(SIZE)):
        check(impl, boxes, torch.rand(SIZE), idxs, 0.4)


@pytest.mark.parametrize("threshold", (-0.1, 0.0, 1e-40, 0.3, 0.5, 1.0))
@pytest.mark.parametrize("classes", ("without", "one", "two", "90"))
def test_thresholds_ties_and_degenerate_boxes(impl: Implementation, threshold: float, classes: str) -> None:
    boxes = torch.cat([tied_boxes(1100), degenerate_boxes().repeat(60, 1)])[torch.randperm(2060)]
    scores = torch.randint(0, 8, (2060,)).float()
    scores[::50] = math.nan
    scores[7::50] = -math.inf
    check(impl, boxes, scores, CLASSES[classes](2060), threshold)


@pytest.mark.parametrize("dtype", (torch.float64, torch.float16, torch.bfloat16))
@pytest.mark.parametrize("classes", ("without", "90"))
def test_dtypes(impl: Implementation, dtype: torch.dtype, classes: str) -> None:
    boxes, scores, idxs = around_objects(SIZE).to(dtype), torch.randn(SIZE).to(dtype), CLASSES[classes](SIZE)
    check(impl, boxes, scores, idxs, 0.5)
    check(impl, boxes, scores.double(), idxs, 0.5)
    check(impl, boxes.double(), scores, idxs, 0.5)


def test_equal_boxes(impl: Implementation) -> None:
    boxes, scores = torch.tensor([[1.0, 1, 2, 2]]).repeat(SIZE, 1), torch.rand(SIZE).round(decimals=2)
    for classes in ("without", "one", "90", "each its own"):
        check(impl, boxes, scores, CLASSES[classes](SIZE), 0.5)
    check(impl, boxes * math.nan, scores, CLASSES["90"](SIZE), 0.5)


@pytest.mark.parametrize(
    ("count", "classes"),
    [*((LARGEST, classes) for classes in ("without", "one", "90", "each its own")), (5000, "90"), (LARGEST + 1, "90")],
)
def test_sizes(impl: Implementation, count: int, classes: str) -> None:
    check(impl, crowded(count, side=400), torch.rand(count), CLASSES[classes](count), 0.4)


def test_chains_of_suppression(impl: Implementation) -> None:
    """Each box depends on the one before it, which is one of another group for every 32nd."""
    left = torch.arange(1100.0)[:, None]
    chain = torch.cat([left, 0 * left, left + 3, 0 * left + 1], dim=1)  # IoU 0.5 with the next
    boxes, idxs = torch.cat([chain, chain]), torch.arange(2200) // 1100 - 1
    mixed = torch.randperm(2200)
    check(impl, boxes[mixed], (2200 - torch.arange(2200.0))[mixed], idxs[mixed], 0.3)


@pytest.mark.parametrize("classes", ("without", "90", "5000"))
def test_result_is_independent_of_the_schedule(impl: Implementation, classes: str) -> None:
    boxes, scores, idxs = around_objects(SIZE), torch.rand(SIZE).round(decimals=2), CLASSES[classes](SIZE)

    def call() -> Tensor:
        return impl.nms(boxes, scores, 0.4) if idxs is None else impl.batched_nms(boxes, scores, idxs, 0.4)

    assert_equal(same_under_all(call), expected(boxes, scores, idxs, 0.4))
