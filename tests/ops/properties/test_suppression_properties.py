"""nms, batched_nms, multiclass_nms and soft_nms on inputs of all kinds: equal to the reference, bit for bit."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from ssd_ops import reference
from tests.ops.boxes import assert_all_equal, assert_equal
from tests.ops.conftest import Implementation
from tests.ops.properties import strategies as ours
from tests.ops.properties.strategies import cases


@st.composite
def one_set(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes [N, 4], scores [N] and classes [N]."""
    count, dtype = draw(ours.SIZES), draw(ours.FEW_DTYPES)
    classes = draw(st.sampled_from((1, 2, 5, 100)))
    generator = torch.Generator().manual_seed(draw(ours.SEEDS))
    idxs = torch.randint(classes, (count,), generator=generator) * draw(st.sampled_from((1, -1, 2**40)))
    return draw(ours.boxes(count, dtype=dtype)), draw(ours.scores(count, dtype=draw(ours.FEW_DTYPES))), idxs


THRESHOLD = {
    "iou_threshold": st.one_of(ours.IOU_THRESHOLDS, st.sampled_from((float("inf"), -float("inf")))),
    "suppress_equal": ours.SUPPRESS_EQUAL,
}
ONE_SET = {"drawn": one_set(), "options": st.fixed_dictionaries(THRESHOLD)}


@cases(**ONE_SET)
def test_nms(other: Implementation, drawn: tuple[Tensor, Tensor, Tensor], options: dict[str, Any]) -> None:
    boxes, scores, _ = drawn
    assert_equal(other.nms(boxes, scores, **options), reference.nms(boxes, scores, **options))


@cases(**ONE_SET)
def test_batched_nms(other: Implementation, drawn: tuple[Tensor, Tensor, Tensor], options: dict[str, Any]) -> None:
    assert_equal(other.batched_nms(*drawn, **options), reference.batched_nms(*drawn, **options))


@st.composite
def batch(draw: st.DrawFn, **kinds: Any) -> tuple[Tensor, Tensor]:
    """Boxes [B, N, 4] or [B, N, C, 4] and scores [B, N, C]."""
    images, count, classes = draw(ours.IMAGES), draw(ours.SIZES), draw(st.sampled_from((2, 3, 4, 2, 3, 33, 1, 0)))
    count = count if classes < 33 else min(count, 9)
    shape = (images, count, classes) if draw(st.booleans()) else (images, count)
    boxes = draw(ours.boxes(*shape, dtype=draw(ours.FEW_DTYPES), kinds=kinds.get("boxes", ())))
    scores = draw(ours.scores(images, count, classes, dtype=draw(ours.FEW_DTYPES), kinds=kinds.get("scores", ())))
    return boxes, scores


LIMITS = st.sampled_from((400, 1, 2, 7, 20, 64))


def options(**more: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(
        {
            "score_threshold": ours.SCORE_THRESHOLDS,
            "iou_threshold": ours.IOU_THRESHOLDS,
            "max_detections": st.sampled_from((20, 1, 3, 64, 200)),
            **more,
        }
    )


HARD = options(candidates_per_class=LIMITS, suppress_equal=ours.SUPPRESS_EQUAL, min_size=ours.MIN_SIZES)


@cases(inputs=batch(), options=HARD)
def test_multiclass_nms(other: Implementation, inputs: tuple[Tensor, Tensor], options: dict[str, Any]) -> None:
    assert_all_equal(other.multiclass_nms(*inputs, **options), reference.multiclass_nms(*inputs, **options))


@cases(inputs=batch(), options=options(method=st.just("linear")))
def test_linear_soft_nms(other: Implementation, inputs: tuple[Tensor, Tensor], options: dict[str, Any]) -> None:
    assert_all_equal(other.soft_nms(*inputs, **options), reference.soft_nms(*inputs, **options))
