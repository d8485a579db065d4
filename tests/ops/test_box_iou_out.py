"""`box_iou(out=)`: overwritten saved tensors are detected, and invalid uses raise."""

from __future__ import annotations

import pytest
import torch
from torch.autograd import forward_ad

import ssd_ops
from ssd_ops import reference
from tests.ops.boxes import random_boxes
from tests.ops.conftest import Implementation

BOXES = random_boxes(5)


@pytest.mark.parametrize("module", [ssd_ops, reference], ids=["ssd_ops", "reference"])
def test_writing_to_a_saved_tensor_raises_in_backward(module: type) -> None:
    weights, out = torch.ones(5, 5, requires_grad=True), torch.ones(5, 5)
    product = (weights * out).sum()
    module.box_iou(BOXES, BOXES, out=out)
    assert out._version >= 1
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        product.backward()


def test_out_must_not_share_memory_with_an_input(impl: Implementation) -> None:
    memory = torch.zeros(25, device=impl.device)  # the fixture copies tensors of other devices, each by itself
    boxes = memory[4:24].view(5, 4).copy_(BOXES)
    with pytest.raises(RuntimeError, match=r"^out must not share memory with boxes2$"):
        impl.box_iou(BOXES, boxes, out=memory.view(5, 5))
    beside = torch.zeros(45, device=impl.device)
    boxes = beside[25:].view(5, 4).copy_(BOXES)
    assert torch.equal(impl.box_iou(BOXES, boxes, out=beside[:25].view(5, 5)), reference.box_iou(BOXES, BOXES))


@pytest.mark.parametrize("module", [ssd_ops, reference], ids=["ssd_ops", "reference"])
def test_out_must_be_trackable_by_autograd(module: type) -> None:
    leaf, boxes = torch.zeros(5, 5, requires_grad=True), BOXES.clone().requires_grad_()
    for name, arguments, out in (("out", (BOXES, BOXES), leaf), ("boxes1", (boxes, BOXES), torch.zeros(5, 5))):
        message = f"^out cannot be written to where {name} requires a gradient"
        with pytest.raises(RuntimeError, match=message):
            module.box_iou(*arguments, out=out)
        with torch.no_grad():
            module.box_iou(*arguments, out=out)
    with pytest.raises(RuntimeError, match=r"^out must not be a negated view"):
        module.box_iou(BOXES, BOXES, out=torch._neg_view(torch.zeros(5, 5)))
    with torch.inference_mode():
        out = torch.zeros(5, 5)
        module.box_iou(BOXES, BOXES, out=out)
    with pytest.raises(RuntimeError, match=r"^out must not be an inference tensor outside of"):
        module.box_iou(BOXES, BOXES, out=out)


@pytest.mark.parametrize("module", [ssd_ops, reference], ids=["ssd_ops", "reference"])
def test_out_with_forward_mode_raises(module: type) -> None:
    ones = torch.ones(5, 4)
    with pytest.raises(RuntimeError, match=r"^out cannot be written to where boxes1 requires a gradient"):
        torch.func.jvp(lambda boxes: module.box_iou(boxes, BOXES, out=torch.zeros(5, 5)), (BOXES,), (ones,))
    with forward_ad.dual_level():
        boxes, out = forward_ad.make_dual(BOXES, ones), forward_ad.make_dual(torch.zeros(5, 5), torch.ones(5, 5))
        for name, arguments, place in (("boxes2", (BOXES, boxes), torch.zeros(5, 5)), ("out", (BOXES, BOXES), out)):
            with pytest.raises(RuntimeError, match=f"^out cannot be written to where {name} requires a gradient"):
                module.box_iou(*arguments, out=place)
