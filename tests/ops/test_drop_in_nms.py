"""nms and batched_nms as replacements for torchvision's and detectron2's: the same arguments and results."""

from __future__ import annotations

import inspect

import pytest
import torch
import torchvision
from torch import Tensor

import ssd_ops
from tests.ops.boxes import assert_equal, random_boxes
from tests.ops.conftest import Implementation


def crowd(count: int, threshold: float) -> tuple[Tensor, Tensor]:
    """Returns boxes within 100 pixels and scores; the last box overlaps the first by just more than the threshold."""
    g = torch.Generator().manual_seed(count)
    boxes = torch.rand(count, 4, generator=g) * 100
    boxes[:, 2:] += boxes[:, :2]
    boxes[-1] = boxes[0]
    x0, _, x1, _ = boxes[-1].tolist()
    boxes[-1, 0] += (x1 - x0) * (1 - threshold - 1e-5)
    scores = torch.rand(count, generator=g)
    scores[0] = 2.0
    return boxes, scores


@pytest.mark.parametrize("name", ("nms", "batched_nms"))
def test_signature(name: str) -> None:
    wanted = inspect.signature(getattr(torchvision.ops, name)).parameters
    ours = list(inspect.signature(getattr(ssd_ops, name)).parameters.items())
    assert [(n, p.default, p.kind) for n, p in wanted.items()] == [
        (n, p.default, p.kind) for n, p in ours[: len(wanted)]
    ]


@pytest.mark.parametrize("threshold", (0.2, 0.5, 0.8))
def test_random_boxes(impl: Implementation, threshold: float) -> None:
    boxes, scores = crowd(400, threshold)
    assert_equal(impl.nms(boxes, scores, threshold), torchvision.ops.nms(boxes, scores, threshold))
    labels = torch.arange(400) % 7
    expected = torchvision.ops.batched_nms(boxes.double(), scores.double(), labels, threshold)
    for idxs in (
        labels,
        labels.int(),
        labels.to(torch.uint8),
        labels.float(),
        labels.double() - 3.5,
        labels.half() / 4,
    ):
        assert_equal(impl.batched_nms(boxes, scores, idxs, threshold), expected)
    assert_equal(impl.batched_nms(boxes, scores, labels.float() * 0, threshold), impl.nms(boxes, scores, threshold))
    signs = torch.where(labels % 2 == 0, 0.0, -0.0)
    assert_equal(impl.batched_nms(boxes, scores, signs, threshold), impl.nms(boxes, scores, threshold))


def test_float_classes_between_integers(impl: Implementation) -> None:
    """0.25 and 0.75 are two classes, and so are neighbors above 2^53."""
    boxes, scores = torch.tensor([[0.0, 0, 2, 2]]).repeat(4, 1), torch.tensor([0.9, 0.8, 0.7, 0.6])
    assert impl.batched_nms(boxes, scores, torch.tensor([0.25, 0.75, 0.25, 0.75]), 0.5).tolist() == [0, 1]
    near = torch.tensor([2**60, 2**60 + 1, 2**60, 2**60 + 1])
    assert impl.batched_nms(boxes, scores, near, 0.5).tolist() == [0, 1]


@pytest.mark.parametrize("shape", [(0,), (0, 4), (0, 5), (3, 0), (0, 2, 2)])
def test_empty_input(impl: Implementation, shape: tuple[int, ...]) -> None:
    """Any input without elements means no boxes; torch.tensor([]) is float32."""
    boxes, nothing = torch.empty(shape), torch.tensor([])
    found = impl.batched_nms(boxes, nothing, nothing, 0.2)
    assert_equal(found, torchvision.ops.batched_nms(boxes, nothing, nothing, 0.2))
    assert found.dtype == torch.int64


def test_half_and_strides(impl: Implementation) -> None:
    boxes, scores = crowd(300, 0.4)
    wide = torch.cat([boxes, boxes], dim=1)
    assert_equal(impl.nms(wide[:, 4:], scores.flip(0).flip(0), 0.4), impl.nms(boxes, scores, 0.4))
    half = boxes.half()
    assert_equal(impl.nms(half, scores, 0.4), impl.nms(half.float(), scores, 0.4))


def test_invalid_input_raises_as_in_torchvision(impl: Implementation) -> None:
    for boxes, scores in (
        (torch.rand(4), torch.rand(3)),
        (torch.rand(3, 5), torch.rand(3)),
        (torch.rand(3, 4), torch.rand(3, 2)),
        (torch.rand(3, 4), torch.rand(4)),
    ):
        for module in (impl, torchvision.ops):
            with pytest.raises(RuntimeError):
                module.nms(boxes, scores, 0.5)


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")  # torch is about to remove them
@pytest.mark.skipif(not hasattr(torch, "quantize_per_tensor"), reason="this torch has no quantized tensors")
def test_quantized_boxes(impl: Implementation) -> None:
    """torchvision has a separate op for them; boxes and scores are on one grid."""
    boxes, scores = random_boxes(60, scale=40), torch.rand(60) * 40
    grid = (0.25, 0, torch.quint8)
    quantized, levels = torch.quantize_per_tensor(boxes, *grid), torch.quantize_per_tensor(scores, *grid)
    if levels.int_repr().unique().numel() < 60:  # torchvision orders ties arbitrarily
        levels = torch.quantize_per_tensor(torch.randperm(60) * 0.25, *grid)
    assert_equal(impl.nms(quantized, levels, 0.3), torchvision.ops.nms(quantized, levels, 0.3))
