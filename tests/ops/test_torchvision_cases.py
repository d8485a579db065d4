"""The cases of torchvision's own tests of its box functions, rewritten, with the ops installed."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

import ssd_ops

torchvision = pytest.importorskip("torchvision")
from torchvision import ops  # noqa: E402

WHOLE = [[0, 0, 100, 100], [0, 0, 50, 50], [200, 200, 300, 300], [0, 0, 25, 25]]
NEAR = [
    [285.3538, 185.5758, 1193.5110, 851.4551],
    [285.1472, 188.7374, 1192.4984, 851.0669],
    [279.2440, 197.9812, 1189.4746, 849.2019],
]
NEAR_IOU = [[1.0, 0.9933, 0.9673], [0.9933, 1.0, 0.9737], [0.9673, 0.9737, 1.0]]
EXPECTED = {
    "box_iou": [[1.0, 0.25, 0.0], [0.25, 1.0, 0.0], [0.0, 0.0, 1.0], [0.0625, 0.25, 0.0]],
    "generalized_box_iou": [
        [1.0, 0.25, -0.7778],
        [0.25, 1.0, -0.8611],
        [-0.7778, -0.8611, 1.0],
        [0.0625, 0.25, -0.8819],
    ],
    "distance_box_iou": [
        [1.0, 0.1875, -0.4444],
        [0.1875, 1.0, -0.5625],
        [-0.4444, -0.5625, 1.0],
        [-0.0781, 0.1875, -0.6267],
    ],
    "complete_box_iou": [
        [1.0, 0.1875, -0.4444],
        [0.1875, 1.0, -0.5625],
        [-0.4444, -0.5625, 1.0],
        [-0.0781, 0.1875, -0.6267],
    ],
}


@pytest.fixture(autouse=True)
def installed() -> Iterator[None]:
    ssd_ops.install()
    yield
    ssd_ops.uninstall()


def overlapping(count: int, threshold: float) -> tuple[Tensor, Tensor]:
    """Boxes and scores where the last box overlaps the first, which has the highest score, by just over the threshold."""
    generator = torch.Generator().manual_seed(count)
    boxes = torch.rand(count, 4, generator=generator) * 100
    boxes[:, 2:] += boxes[:, :2]
    boxes[-1] = boxes[0]
    x0, _, x1, _ = boxes[-1].tolist()
    boxes[-1, 0] += (x1 - x0) * (1 - threshold - 1e-5)
    scores = torch.rand(count, generator=generator)
    scores[-1] = max(2.0, scores.max().item() + 1)
    return boxes, scores


def plain_nms(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
    order, picked = scores.argsort(descending=True), []
    while len(order):
        best, order = order[0], order[1:]
        picked.append(best)
        overlap = torch.tensor([iou(boxes[best].tolist(), boxes[i].tolist()) for i in order])
        order = order[overlap <= threshold] if len(order) else order
    return torch.stack(picked)


def iou(a: list[float], b: list[float]) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    both = max(width, 0) * max(height, 0)
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)


@pytest.mark.parametrize("threshold", (0.2, 0.5, 0.8))
@pytest.mark.parametrize("seed", range(3))
def test_nms_reference(threshold: float, seed: int) -> None:
    boxes, scores = overlapping(100 + seed, threshold)
    assert torch.equal(ops.nms(boxes, scores, threshold), plain_nms(boxes, scores, threshold))
    scripted = torch.jit.script(ops.nms)
    assert torch.equal(scripted(boxes, scores, threshold), ops.nms(boxes, scores, threshold))


def test_batched_nms_equals_nms_of_each_class() -> None:
    generator = torch.Generator().manual_seed(5)
    boxes = torch.cat((torch.rand(1000, 2, generator=generator), torch.rand(1000, 2, generator=generator) + 10), dim=1)
    scores, idxs = torch.rand(1000, generator=generator), torch.randint(0, 4, (1000,), generator=generator)
    kept = torch.cat([(idxs == c).nonzero()[:, 0][ops.nms(boxes[idxs == c], scores[idxs == c], 0.9)] for c in range(4)])
    expected = kept[scores[kept].argsort(descending=True)]
    assert torch.equal(ops.batched_nms(boxes, scores, idxs, 0.9), expected)
    assert torch.equal(ops.boxes._batched_nms_vanilla(boxes, scores, idxs, 0.9), expected)
    assert torch.equal(ops.boxes._batched_nms_coordinate_trick(boxes, scores, idxs, 0.9), expected)
    empty = torch.empty(0, dtype=torch.int64)
    assert torch.equal(ops.batched_nms(torch.empty((0, 4)), torch.empty(0), empty, 0.2), empty)
    assert torch.equal(ops.batched_nms(empty, None, None, None), empty)


@pytest.mark.parametrize("name", EXPECTED)
@pytest.mark.parametrize("dtype", (torch.int16, torch.int32, torch.int64, torch.float16, torch.float32, torch.float64))
def test_box_overlaps(name: str, dtype: torch.dtype) -> None:
    function = getattr(ops, name)
    cases = [(WHOLE, EXPECTED[name])] + (
        [(NEAR, NEAR_IOU)] if dtype.is_floating_point and dtype != torch.float16 else []
    )
    for boxes, expected in cases:
        tensor = torch.tensor(boxes, dtype=dtype)
        found = function(tensor, tensor[:3])
        torch.testing.assert_close(found.double(), torch.tensor(expected).double(), rtol=0, atol=2e-3)
        rows = [[function(a[None], b[None])[0, 0] for b in tensor[:3]] for a in tensor]
        torch.testing.assert_close(torch.tensor(rows, dtype=found.dtype), found, rtol=0, atol=1e-6)
    scripted = torch.jit.script(function)
    tensor = torch.tensor(WHOLE, dtype=torch.float32)
    torch.testing.assert_close(scripted(tensor, tensor), function(tensor, tensor))


def test_losses_on_overlaps() -> None:
    """generalized, distance and complete IoU losses of pairs; torchvision computes them without these functions."""
    a, b = torch.tensor([[-1.0, -1, 1, 1]]), torch.tensor([[0.0, 0, 1, 1]])
    assert ops.generalized_box_iou_loss(a, b).item() == pytest.approx(0.75)
    assert ops.distance_box_iou_loss(a, b).item() == pytest.approx(0.75 + 0.0625)
    assert 1 - ops.distance_box_iou(a, b).item() == pytest.approx(0.8125)
    assert math.isclose(ops.complete_box_iou_loss(a, b).item(), 1 - ops.complete_box_iou(a, b).item(), abs_tol=1e-6)
