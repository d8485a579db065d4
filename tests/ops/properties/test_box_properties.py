"""The IoU family, encode_boxes and decode_boxes on inputs of all kinds: equal to the reference."""

from __future__ import annotations

import pytest
import torch
from hypothesis import example
from hypothesis import strategies as st
from torch import Tensor

from ssd_ops import reference
from tests.ops.boxes import assert_equal
from tests.ops.conftest import Implementation
from tests.ops.properties import strategies as ours
from tests.ops.properties.strategies import cases
from tests.ops.properties.tolerance import assert_within, complete_iou_error, decode_error, encode_error

EXACT = ("box_iou", "generalized_box_iou", "distance_box_iou")
CODE_TYPES = ("center_size", "corner", "corner_size")


@st.composite
def pairs(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """boxes1 [..., N, 4] and boxes2 [..., M, 4]."""
    lead, dtype = draw(st.sampled_from(((), (2,), (0,), (2, 1)))), draw(ours.FEW_DTYPES)
    columns = draw(st.one_of(ours.SIZES, st.sampled_from((511, 513))))
    return draw(ours.boxes(*lead, draw(ours.SIZES), dtype=dtype)), draw(ours.boxes(*lead, columns, dtype=dtype))


@pytest.mark.parametrize("metric", EXACT)
@cases(drawn=pairs())
def test_iou(other: Implementation, metric: str, drawn: tuple[Tensor, Tensor]) -> None:
    expected = getattr(reference, metric)(*drawn)
    assert_equal(getattr(other, metric)(*drawn), expected)
    if metric == "box_iou" and other.device.type == "cpu":
        out = torch.full_like(expected, -7)
        other.box_iou(*drawn, out=out)
        assert_equal(out, expected)


# Two angles of pi / 2 but for the last place: their difference is 0 or an ulp.
FLAT = (torch.tensor([[1e-45, -65504.0, 2.0**64, 2.0**-126]]), torch.tensor([[0.0, 0.0, 2.0, 2.0**-24]]))


@example(drawn=FLAT)
@cases(drawn=pairs())
def test_complete_iou(other: Implementation, drawn: tuple[Tensor, Tensor]) -> None:
    expected, found = reference.complete_box_iou(*drawn), other.complete_box_iou(*drawn)
    assert_within(found, expected, *complete_iou_error(*drawn, expected))


@st.composite
def coded(draw: st.DrawFn, op: str) -> tuple[Tensor, Tensor, tuple[float, ...]]:
    """boxes or deltas [..., P, 4], priors [P, 4] and variances."""
    lead, count = draw(st.sampled_from(((), (1,), (3,), (0,), (2, 2)))), draw(ours.SIZES)
    first = draw(ours.boxes(*lead, count, dtype=draw(ours.FEW_DTYPES)))
    if op == "decode_boxes" and draw(st.booleans()):
        generator = torch.Generator().manual_seed(draw(ours.SEEDS))
        first = (torch.randn(first.shape, generator=generator) * draw(st.sampled_from((1, 8, 100)))).to(first.dtype)
    return first, draw(ours.boxes(count, dtype=draw(ours.FEW_DTYPES))), draw(ours.variances())


@pytest.mark.parametrize("code_type", CODE_TYPES)
@cases(drawn=coded("encode_boxes"))
def test_encode(other: Implementation, code_type: str, drawn: tuple[Tensor, Tensor, tuple[float, ...]]) -> None:
    found, expected = (f.encode_boxes(*drawn, code_type) for f in (other, reference))
    if code_type == "center_size":
        assert_equal(found[..., :2], expected[..., :2])
        found, expected = found[..., 2:], expected[..., 2:]
        assert_within(found, expected, encode_error(expected))
    else:
        assert_equal(found, expected)


# exp of half an ulp is 1 or the next number, and that times the largest number is itself or inf.
OVERFLOW = (
    torch.tensor([[-3.4028235e38, 3.4028235e38, 2.0**-24, 1.0]]),
    torch.tensor([[-3.4028235e38, 0.0, 0.0, 1.0]]),
)


@example(drawn=(*OVERFLOW, (1.0, 1.0)))
@pytest.mark.parametrize("code_type", CODE_TYPES)
@cases(drawn=coded("decode_boxes"))
def test_decode(other: Implementation, code_type: str, drawn: tuple[Tensor, Tensor, tuple[float, ...]]) -> None:
    found, expected = (f.decode_boxes(*drawn, code_type) for f in (other, reference))
    if code_type == "center_size":
        assert_within(found, expected, *decode_error(*drawn, expected))
    else:
        assert_equal(found, expected)
