"""Tensors of more than 2^31 numbers, where 32-bit indices would overflow: the end of each equals a small call."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

import ssd_ops
from tests.ops.boxes import assert_all_equal, assert_equal, random_boxes

pytestmark = pytest.mark.cuda
LIMIT = 2**31
PRIORS = 8732
MANY_IMAGES = 61_500  # times 8732 priors times 4 numbers are more than LIMIT
IMAGES, CLASSES = 2704, 91  # as are these, times 8732 priors


@pytest.fixture(autouse=True)
def emptied(gpu: torch.device) -> Iterator[None]:
    """Frees the memory between tests."""
    torch.cuda.empty_cache()
    yield
    torch.cuda.empty_cache()


def need(gigabytes: float) -> None:
    free = torch.cuda.mem_get_info()[0] / 1e9
    if free < gigabytes:
        pytest.skip(f"needs {gigabytes:g} GB of free memory on the GPU, there are {free:.1f}")


def last_images(*tensors: Tensor) -> list[Tensor]:
    """Copies of the last two images, which lie past element 2^31."""
    return [tensor[-2:].clone() for tensor in tensors]


def test_box_iou(gpu: torch.device) -> None:
    need(30)
    n = 46_400
    boxes1, boxes2 = random_boxes(n, seed=1), random_boxes(n, seed=2)
    leaves = [boxes1.to(gpu).requires_grad_(), boxes2.to(gpu).requires_grad_()]
    iou = ssd_ops.box_iou(*leaves)
    assert iou.numel() > LIMIT
    rows = torch.tensor([0, LIMIT // n - 1, LIMIT // n, LIMIT // n + 1, n - 1])
    assert_equal(iou.detach()[rows.to(gpu)].cpu(), ssd_ops.reference.box_iou(boxes1[rows], boxes2))
    (grad,) = torch.autograd.grad(iou, leaves[0], torch.ones((), device=gpu).expand_as(iou))
    few = boxes1[rows].to(gpu).requires_grad_()
    (expected,) = torch.autograd.grad(ssd_ops.box_iou(few, leaves[1]).sum(), few)
    # Sums over 46400 columns may run in another order where there are fewer rows.
    torch.testing.assert_close(grad[rows.to(gpu)], expected, rtol=0, atol=2e-6 * expected.abs().max().item())


@pytest.mark.parametrize("op", [ssd_ops.encode_boxes, ssd_ops.decode_boxes], ids=["encode_boxes", "decode_boxes"])
def test_encode_and_decode(op, gpu: torch.device) -> None:  # type: ignore[no-untyped-def]
    need(20)
    priors, boxes = random_boxes(PRIORS).to(gpu), torch.rand(MANY_IMAGES, PRIORS, 4, device=gpu)
    boxes[..., 2:] += 1
    result = op(boxes, priors)
    assert result.numel() > LIMIT
    assert_equal(result[-2:], op(*last_images(boxes), priors))


def test_match_priors(gpu: torch.device) -> None:
    need(25)
    boxes, priors = random_boxes(MANY_IMAGES).to(gpu), random_boxes(PRIORS, seed=1).to(gpu)
    labels = torch.arange(MANY_IMAGES, device=gpu) % 90 + 1
    offsets = torch.arange(MANY_IMAGES + 1, device=gpu)
    for rule in ("greedy", "last"):
        found = ssd_ops.match_priors(boxes, labels, priors, offsets=offsets, rule=rule)
        assert found.loc_targets.numel() > LIMIT
        alone = ssd_ops.match_priors(*last_images(boxes, labels), priors, offsets=offsets[:3], rule=rule)
        assert_all_equal([part[-2:] for part in found], alone)
        assert (alone.gt_index >= 0).any()
        del found


def test_multibox_loss(gpu: torch.device) -> None:
    need(16)
    logits = torch.randn(IMAGES, PRIORS, CLASSES, device=gpu, dtype=torch.float16)
    assert logits.numel() > LIMIT
    loc, targets = (torch.randn(IMAGES, PRIORS, 4, device=gpu, dtype=torch.float16) for _ in range(2))
    labels = torch.randint(0, CLASSES, (IMAGES, PRIORS), device=gpu)
    labels[torch.rand(IMAGES, PRIORS, device=gpu) > 0.001] = 0

    def gradients(*inputs: Tensor) -> list[Tensor]:
        leaves = [tensor.requires_grad_() for tensor in inputs[:2]]
        loc_loss, cls_loss = ssd_ops.multibox_loss(*leaves, *inputs[2:], normalizer="image")
        # Each image weighs 1 / images, which the factor takes out.
        grads = torch.autograd.grad((loc_loss + cls_loss) * len(inputs[0]), leaves)
        return [grad[-2:].float() for grad in grads]

    expected = gradients(*last_images(loc, logits, targets, labels))
    found = gradients(loc, logits, targets, labels)
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one != 0, other != 0) and bool((one != 0).any())
        torch.testing.assert_close(one, other, rtol=2e-3, atol=1e-6)  # a unit of the last place of float16


@pytest.mark.parametrize("op", ["multiclass_nms", "soft_nms", "detect"])
def test_suppression(op: str, gpu: torch.device) -> None:
    need(12)
    scores = torch.rand(IMAGES, PRIORS, CLASSES, device=gpu, dtype=torch.float16)
    assert scores.numel() > LIMIT
    if op == "detect":
        inputs = [torch.randn(IMAGES, PRIORS, 4, device=gpu, dtype=torch.float16), scores.mul_(16)]
        priors = random_boxes(PRIORS).to(gpu)
        options = {"score_threshold": 0.3, "candidates_per_class": 50, "max_detections": 20}
        found = ssd_ops.detect(*inputs, priors, **options)
        alone = ssd_ops.detect(*last_images(*inputs), priors, **options)
    else:
        inputs = [random_boxes(PRIORS).to(gpu).expand(IMAGES, -1, -1).contiguous(), scores]
        options = {"score_threshold": 0.9985, "max_detections": 20}
        options |= {"method": "linear"} if op == "soft_nms" else {"iou_threshold": 0.4, "candidates_per_class": 50}
        found = getattr(ssd_ops, op)(*inputs, **options)
        alone = getattr(ssd_ops, op)(*last_images(*inputs), **options)
    assert_all_equal([part[-2:] for part in found], alone)
    assert (alone.counts == 20).all()


def test_nms(gpu: torch.device) -> None:
    """More pairs than 2^31, of boxes that overlap in places."""
    n = 200_000
    boxes, scores = random_boxes(n) * 0.01, torch.rand(n, generator=torch.Generator().manual_seed(1))
    boxes += torch.rand(n, 1, generator=torch.Generator().manual_seed(2))
    assert_equal(ssd_ops.nms(boxes.to(gpu), scores.to(gpu), 0.5).cpu(), ssd_ops.nms(boxes, scores, 0.5))
