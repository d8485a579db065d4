"""Invariants of every implementation, the reference included, for all inputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

import ssd_ops
from tests.ops.boxes import assert_all_equal, assert_equal
from tests.ops.conftest import Implementation
from tests.ops.properties import strategies as ours
from tests.ops.properties import test_suppression_properties as suppression
from tests.ops.properties.strategies import cases
from tests.ops.properties.test_box_properties import CODE_TYPES, EXACT
from tests.ops.properties.test_detect_properties import exact, rounded


@cases(**suppression.ONE_SET)
def test_nms_is_a_fixed_point(
    impl: Implementation, drawn: tuple[Tensor, Tensor, Tensor], options: dict[str, Any]
) -> None:
    boxes, scores, idxs = drawn
    keep = impl.nms(boxes, scores, **options)
    assert_equal(impl.nms(boxes[keep], scores[keep], **options), torch.arange(len(keep)))
    keep = impl.batched_nms(boxes, scores, idxs, **options)
    assert_equal(impl.batched_nms(boxes[keep], scores[keep], idxs[keep], **options), torch.arange(len(keep)))


@cases(**suppression.ONE_SET, seed=ours.SEEDS)
def test_order_of_boxes_up_to_ties(
    impl: Implementation, drawn: tuple[Tensor, Tensor, Tensor], options: dict[str, Any], seed: int
) -> None:
    """Any permutation that keeps the order of tied boxes gives the same boxes."""
    boxes, scores, idxs = drawn
    order = torch.randperm(len(boxes), generator=torch.Generator().manual_seed(seed))
    for value in scores.unique():
        tied = scores[order].isnan() if value.isnan() else scores[order] == value
        order[tied] = order[tied].sort().values
    keep = impl.nms(boxes, scores, **options)
    assert_equal(order[impl.nms(boxes[order], scores[order], **options)], keep)
    keep = impl.batched_nms(boxes, scores, idxs, **options)
    assert_equal(order[impl.batched_nms(boxes[order], scores[order], idxs[order], **options)], keep)


def check_images(call: Callable[..., ssd_ops.Detections], inputs: tuple[Tensor, ...], options: dict[str, Any]) -> None:
    """The batch equals its images one by one, and the padding is 0."""
    together = call(*inputs, **options)
    for b in range(len(inputs[0])):
        alone = call(*(t[b : b + 1] for t in inputs), **options)
        assert_all_equal([part[0] for part in alone], [part[b] for part in together])
        count = int(together.counts[b])
        assert 0 <= count <= options["max_detections"]
        assert not any(part[b, count:].any() for part in together[:3])
        assert (together.labels[b, :count] >= 1).all()
        scores = together.scores[b, :count]
        assert (scores.double() > options["score_threshold"]).all() and (scores[:-1] >= scores[1:]).all()


@cases(inputs=suppression.batch(), options=suppression.HARD)
def test_multiclass_nms_image_by_image(
    impl: Implementation, inputs: tuple[Tensor, Tensor], options: dict[str, Any]
) -> None:
    check_images(impl.multiclass_nms, inputs, options)


SOFT = suppression.options(method=st.sampled_from(("linear", "gaussian")), sigma=st.floats(0.01, 10))


@cases(inputs=suppression.batch(), options=SOFT)
def test_soft_nms_image_by_image(impl: Implementation, inputs: tuple[Tensor, Tensor], options: dict[str, Any]) -> None:
    check_images(impl.soft_nms, inputs, options)


@cases(drawn=st.one_of(exact(), rounded()))
def test_detect_image_by_image(impl: Implementation, drawn: tuple[Tensor, Tensor, Tensor, dict[str, Any]]) -> None:
    loc, logits, priors, options = drawn
    check_images(lambda *inputs, **kwargs: impl.detect(*inputs, priors, **kwargs), (loc, logits), options)


@cases(count=ours.SIZES, data=st.data(), metric=st.sampled_from(EXACT), code_type=st.sampled_from(CODE_TYPES))
def test_boxes_image_by_image(
    impl: Implementation, count: int, data: st.DataObject, metric: str, code_type: str
) -> None:
    dtype = data.draw(ours.FEW_DTYPES)
    boxes1, boxes2 = (data.draw(ours.boxes(3, n, dtype=dtype)) for n in (count, 33))
    together = getattr(impl, metric)(boxes1, boxes2)
    for b in range(3):
        assert_equal(getattr(impl, metric)(boxes1[b], boxes2[b]), together[b])
    for op in (impl.encode_boxes, impl.decode_boxes):
        coded_boxes = op(boxes1, boxes1[0], code_type=code_type)
        for b in range(3):
            assert_equal(op(boxes1[b], boxes1[0], code_type=code_type), coded_boxes[b])


@cases(count=ours.SIZES, data=st.data(), code_type=st.sampled_from(CODE_TYPES), variances=ours.variances())
def test_decode_inverts_encode(
    impl: Implementation, count: int, data: st.DataObject, code_type: str, variances: tuple[float, ...]
) -> None:
    """Within 32 units of the last place of the largest coordinate, for boxes with sides below the clamp."""
    dtype = data.draw(st.sampled_from((torch.float32, torch.float64)))
    scale = data.draw(st.sampled_from((1.0, 300.0, 1e-6, 1e6)))
    boxes, priors = (data.draw(ours.boxes(count, dtype=dtype, kinds=("uniform",))) * scale for _ in range(2))
    deltas = impl.encode_boxes(boxes, priors, variances, code_type)
    torch.testing.assert_close(
        impl.decode_boxes(deltas, priors, variances, code_type), boxes, rtol=0, atol=32 * torch.finfo(dtype).eps * scale
    )
