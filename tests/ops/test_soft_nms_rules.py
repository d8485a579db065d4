"""Rules of soft-NMS: mmcv's comparisons, a single set of boxes, and which boxes were kept."""

from __future__ import annotations

import pytest
import torch
import torchvision

import ssd_ops
from tests.ops.boxes import assert_all_equal, assert_equal, random_boxes, tied_boxes
from tests.ops.conftest import Implementation

RULES = [(suppress_equal, keep_equal) for suppress_equal in (False, True) for keep_equal in (False, True)]


def soft_nms_of_mmcv(
    boxes: torch.Tensor, scores: torch.Tensor, iou_threshold: float, min_score: float
) -> tuple[list[int], list[float]]:
    """Returns kept indices and lowered scores, for `linear` with both comparisons inclusive."""
    left, lowered, kept = list(range(len(boxes))), scores.clone(), []
    while left:
        best = max(left, key=lambda i: (lowered[i].item(), -i))
        left.remove(best)
        kept.append(best)
        for i in left:
            iou = torchvision.ops.box_iou(boxes[best : best + 1], boxes[i : i + 1])[0, 0]
            if iou >= iou_threshold:
                lowered[i] = lowered[i] * (1 - iou)
        left = [i for i in left if lowered[i] >= min_score]
    return kept, lowered[kept].tolist()


def test_equals_mmcv(impl: Implementation) -> None:
    """With overlaps of exactly a third and scores of exactly the minimum."""
    boxes = torch.tensor([[0.0, 0, 3, 1], [1.5, 0, 4.5, 1], [9, 0, 10, 1], [20, 0, 21, 1]])
    boxes = torch.cat([boxes, random_boxes(12, scale=8)])
    scores = torch.cat([torch.tensor([0.9, 0.75, 0.25, 0.125]), torch.rand(12) * 0.8 + 0.1])
    rules = {"method": "linear", "suppress_equal": True, "keep_equal": True}
    third = float(torchvision.ops.box_iou(boxes[:1], boxes[1:2]))
    for threshold in (third, 0.1):
        found = impl.soft_nms(boxes, scores, iou_threshold=threshold, score_threshold=0.125, **rules)
        kept, lowered = soft_nms_of_mmcv(boxes, scores, threshold, 0.125)
        count = int(found.counts)
        assert found.indices.tolist() == kept + [-1] * (16 - count)
        assert_equal(found.scores[:count], torch.tensor(lowered))
        assert_equal(found.boxes[:count], boxes[kept])
        assert found.labels.tolist() == [1] * count + [0] * (16 - count)
    assert 3 in impl.soft_nms(boxes, scores, score_threshold=0.125, keep_equal=True).indices
    assert 3 not in impl.soft_nms(boxes, scores, score_threshold=0.125).indices


@pytest.mark.parametrize(("suppress_equal", "keep_equal"), RULES)
def test_equals_reference(impl: Implementation, suppress_equal: bool, keep_equal: bool) -> None:
    """Ties: boxes of a grid, scores of a few levels, thresholds among them."""
    boxes, scores = tied_boxes(2, 40), torch.randint(-1, 4, (2, 40, 3)) / 4.0
    for threshold in (0.0, 0.25):
        options = {"method": "linear", "iou_threshold": 0.5, "score_threshold": threshold, "max_detections": 50}
        options |= {"suppress_equal": suppress_equal, "keep_equal": keep_equal}
        found = impl.soft_nms(boxes, scores, **options)
        assert_all_equal(found, ssd_ops.reference.soft_nms(boxes, scores, **options))
        for b in range(2):
            kept = found.indices[b, : found.counts[b]]
            assert_equal(found.boxes[b, : len(kept)], boxes[b, kept])
            assert (found.indices[b, len(kept) :] == -1).all()


def test_single_set(impl: Implementation) -> None:
    boxes, scores = random_boxes(50), torch.rand(50)
    options = {"method": "linear", "score_threshold": 0.1}
    single = impl.soft_nms(boxes, scores, **options)
    batch = impl.soft_nms(boxes[None], torch.stack([scores, scores], 1)[None], **options)
    assert single.boxes.shape == (50, 4) and single.counts.shape == ()
    assert_all_equal(single, [tensor[0] for tensor in batch])
    assert impl.soft_nms(boxes, scores, **options, max_detections=3).indices.tolist() == single.indices[:3].tolist()
    assert impl.soft_nms(boxes[:0], scores[:0], **options).counts == 0
    with pytest.raises(RuntimeError, match=r"boxes must have shape \[50, 4\], got \[1, 50, 4\]"):
        impl.soft_nms(boxes[None], scores, **options)
    for name in ("suppress_equal", "keep_equal"):
        with pytest.raises(TypeError, match=f"{name} must be True or False, got '>='"):
            impl.soft_nms(boxes, scores, **options, **{name: ">="})


def test_gradient_with_suppress_equal(impl: Implementation) -> None:
    """Gradients of the decayed scores follow the given rule."""
    boxes = torch.tensor([[0.0, 0, 2, 1], [1, 0, 3, 1]], dtype=torch.float64)
    scores = torch.tensor([0.9, 0.8], dtype=torch.float64)
    third = float(ssd_ops.reference.box_iou(boxes[:1], boxes[1:]))
    for suppress_equal, slope in ((True, 1 - third), (False, 1.0)):
        leaf = scores.clone().requires_grad_()
        options = {"method": "linear", "iou_threshold": third, "score_threshold": 0.1, "suppress_equal": suppress_equal}
        found = impl.soft_nms(boxes, leaf, **options)
        found.scores.sum().backward()
        torch.testing.assert_close(leaf.grad, torch.tensor([1.0, slope], dtype=torch.float64))
