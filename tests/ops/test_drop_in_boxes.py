"""box_iou and its variants as replacements for torchvision's: the same arguments and results."""

from __future__ import annotations

import inspect

import pytest
import torch
import torchvision
from torch import Tensor

import ssd_ops
from tests.ops.boxes import assert_equal, random_boxes
from tests.ops.conftest import Implementation

METRICS = ("box_iou", "generalized_box_iou", "distance_box_iou", "complete_box_iou")
# Whole numbers, and fractions of nearly equal boxes: what torchvision's and detectron2's own tests compare.
WHOLE = torch.tensor([[0, 0, 100, 100], [0, 0, 50, 50], [200, 200, 300, 300], [0, 0, 25, 25]])
NEAR = torch.tensor([[285.25, 185.625, 1194.0, 851.5], [285.25, 188.75, 1192.0, 851.0], [279.25, 198.0, 1189.0, 849.0]])


@pytest.mark.parametrize("metric", METRICS)
def test_signature(metric: str) -> None:
    """The arguments of torchvision come first, with its names and defaults."""
    if metric == "box_iou" and "fmt" not in inspect.signature(torchvision.ops.box_iou).parameters:
        pytest.skip("this torchvision has no formats yet")
    wanted = inspect.signature(getattr(torchvision.ops, metric)).parameters
    ours = inspect.signature(getattr(ssd_ops, metric)).parameters
    for (name, parameter), (our_name, our) in zip(wanted.items(), ours.items(), strict=False):
        assert (name, parameter.default, parameter.kind) == (our_name, our.default, our.kind)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", (torch.float16, torch.float32, torch.float64, torch.int16, torch.int32, torch.int64))
@pytest.mark.parametrize("boxes", (WHOLE, NEAR), ids=("whole", "near"))
def test_values(impl: Implementation, metric: str, dtype: torch.dtype, boxes: Tensor) -> None:
    boxes = boxes.to(dtype)
    found = getattr(impl, metric)(boxes, boxes[:3])
    expected = getattr(torchvision.ops, metric)(boxes, boxes[:3])
    torch.testing.assert_close(
        found, expected, rtol=0, atol=1e-3 if dtype == torch.float16 else 1e-6, check_dtype=False
    )


@pytest.mark.parametrize("metric", METRICS)
def test_cartesian_product_and_empty_sets(impl: Implementation, metric: str) -> None:
    op, boxes = getattr(impl, metric), random_boxes(4, scale=80)
    rows = torch.stack([op(boxes[i : i + 1], boxes[j : j + 1])[0, 0] for i in range(4) for j in range(4)])
    assert_equal(op(boxes, boxes), rows.reshape(4, 4))
    assert op(boxes[:0], boxes).shape == (0, 4) and op(boxes, boxes[:0]).shape == (4, 0)
    assert op(boxes.reshape(2, 2, 4), boxes.reshape(2, 2, 4)).shape == (2, 2, 2)


@pytest.mark.parametrize("fmt", ("xyxy", "xywh", "cxcywh"))
def test_formats(impl: Implementation, fmt: str) -> None:
    corners = random_boxes(9, scale=50)
    boxes = torchvision.ops.box_convert(corners, "xyxy", fmt)
    found = impl.box_iou(boxes, boxes[:5], fmt)
    torch.testing.assert_close(found, torchvision.ops.box_iou(corners, corners[:5]), rtol=0, atol=1e-5)
    whole = torchvision.ops.box_convert(WHOLE, "xyxy", fmt)
    assert_equal(impl.box_iou(whole, whole, fmt=fmt).double(), impl.box_iou(WHOLE, WHOLE).double())
    with pytest.raises(ValueError, match="fmt must be one of xyxy, xywh, cxcywh, got cxcywhr"):
        impl.box_iou(boxes, boxes, fmt="cxcywhr")


@pytest.mark.parametrize("metric", ("distance_box_iou", "complete_box_iou"))
@pytest.mark.parametrize("eps", (1e-7, 1e-2, 0.0))
def test_eps(impl: Implementation, metric: str, eps: float) -> None:
    boxes1, boxes2 = (random_boxes(9, seed=seed).requires_grad_() for seed in (1, 2))
    found, expected = (getattr(module, metric)(boxes1, boxes2, eps) for module in (impl, torchvision.ops))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    ours, theirs = (torch.autograd.grad(result.sum(), boxes1, retain_graph=True)[0] for result in (found, expected))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
