"""Results have the dtype that the table in `ssd_ops` states, for every pair of dtypes, and integers are exact."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

import ssd_ops
from tests.ops.boxes import assert_equal, random_boxes
from tests.ops.conftest import Implementation

NARROW = (torch.float16, torch.bfloat16, torch.float32, torch.bool, torch.uint8, torch.int8, torch.int16)
WIDE = (torch.float64, torch.int32, torch.int64)
PAIRS = list(product(NARROW + WIDE, repeat=2))
DETECT = {"score_threshold": 0.5, "max_detections": 5}
NMS = {**DETECT, "iou_threshold": 0.5, "candidates_per_class": 9}
LABELS = torch.tensor([1, 2, 1, 1, 0, 0])
# With a seed: scores that round to 1 would come in another order where exp rounds otherwise.
RANDOM = torch.Generator().manual_seed(0)
# name of the function, its floating arguments, the rest
CALLS: dict[str, tuple[tuple[Tensor, ...], tuple[Any, ...], dict[str, Any]]] = {
    **{
        metric: ((random_boxes(6, scale=90), random_boxes(5, scale=90, seed=3)), (), {})
        for metric in ("box_iou", "generalized_box_iou", "distance_box_iou", "complete_box_iou")
    },
    "encode_boxes": ((random_boxes(6, scale=90), random_boxes(6, scale=90, seed=3)), (), {}),
    "decode_boxes": ((torch.randn(6, 4, generator=RANDOM) * 3, random_boxes(6, scale=90, seed=3)), (), {}),
    "nms": ((random_boxes(6, scale=90), torch.rand(6, generator=RANDOM) * 90), (0.1,), {}),
    "multiclass_nms": ((random_boxes(1, 6, scale=90), torch.rand(1, 6, 3, generator=RANDOM) * 90), (), NMS),
    "soft_nms": (
        (random_boxes(1, 6, scale=90), torch.rand(1, 6, 3, generator=RANDOM) * 90),
        (),
        {**DETECT, "method": "linear"},
    ),
    "multibox_loss": (
        (
            torch.randn(1, 6, 4, generator=RANDOM),
            torch.randn(1, 6, 3, generator=RANDOM) * 9,
            torch.randn(1, 6, 4, generator=RANDOM),
        ),
        (LABELS[None],),
        {},
    ),
    "detect": (
        (torch.randn(1, 6, 4, generator=RANDOM), torch.randn(1, 6, 3, generator=RANDOM) * 9, random_boxes(6, scale=90)),
        (),
        {"clip": False},
    ),
}


def tensors_of(result: Any) -> tuple[Tensor, ...]:
    return (result,) if isinstance(result, Tensor) else tuple(result)


@pytest.mark.parametrize("name", CALLS)
def test_every_pair(impl: Implementation, name: str) -> None:
    """As float64 where one input is wide, else as float32; nms computes boxes and scores each by itself."""
    inputs, rest, options = CALLS[name]
    for first, second in PAIRS:
        given = [tensor.to(dtype) for tensor, dtype in zip(inputs, (first, second, second), strict=False)]
        single = {dtype: torch.float64 if dtype in WIDE else torch.float32 for dtype in (first, second)}
        both = torch.float64 if torch.float64 in single.values() else torch.float32
        exact = [tensor.to(single[tensor.dtype] if name == "nms" else both) for tensor in given]
        found = tensors_of(getattr(impl, name)(*given, *rest, **options))
        expected = tensors_of(getattr(ssd_ops.reference, name)(*exact, *rest, **options))
        for value, wanted in zip(found, expected, strict=True):
            assert value.dtype == wanted.dtype == (both if wanted.is_floating_point() else torch.int64)
            torch.testing.assert_close(value, wanted, rtol=1e-5, atol=1e-5, equal_nan=True, msg=f"{first}, {second}")


@pytest.mark.parametrize("dtype", (torch.int32, torch.int64))
def test_integer_boxes_are_exact(impl: Implementation, dtype: torch.dtype) -> None:
    """Coordinates that float32 rounds to 64."""
    low = 2**30
    box = torch.tensor([[low, low, low + 10, low + 10], [low + 5, low, low + 15, low + 10]], dtype=dtype)
    third = torch.tensor([[1.0, 1 / 3], [1 / 3, 1.0]], dtype=torch.float64)
    assert_equal(impl.box_iou(box, box), third)
    assert_equal(impl.box_iou(box, box.double()), third)
    assert impl.nms(box, torch.tensor([0.9, 0.8]), 0.4).tolist() == [0, 1]
    assert impl.batched_nms(box, torch.tensor([0.9, 0.8]), torch.tensor([1, 1]), 0.3).tolist() == [0]
    assert impl.encode_boxes(box[1:], box[:1], code_type="corner", variances=(1, 1)).tolist() == [[5.0, 0, 5, 0]]
    kept = impl.multiclass_nms(box[None], torch.tensor([[[0, 0.9], [0, 0.8]]]), **{**NMS, "iou_threshold": 0.4})
    assert_equal(kept.boxes[0, :2], box.double())
    matches = impl.match_priors([box[1:]], [torch.tensor([7])], box, iou_threshold=0.3)
    assert matches.labels.tolist() == [[7, 7]] and matches.loc_targets.dtype == torch.float64
    mixed = impl.match_priors([box[:1], box[1:].double()[:0]], [torch.tensor([7]), torch.tensor([])], box)
    assert mixed.labels.tolist() == [[7, 0], [0, 0]]


def test_integer_scores_are_exact(impl: Implementation) -> None:
    """Above 2^24 float32 holds even numbers only."""
    boxes = torch.tensor([[0.0, 0, 1, 1]]).repeat(3, 1) + torch.arange(3)[:, None] * 2
    scores = torch.tensor([2**24, 2**24 + 1, 2**24 + 2])
    assert impl.nms(boxes, scores, 0.5).tolist() == [2, 1, 0]
    found = impl.multiclass_nms(boxes[None], torch.stack([scores, scores], 1)[None], **NMS)
    assert found.scores[0, :3].tolist() == [2**24 + 2, 2**24 + 1, 2**24]
