"""Gradients of the IoU family and of the codec: those that autograd finds of the reference, ties and clamps included.

Sums run in another order than autograd's, so numbers are compared relative to the largest of their gradient.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor

from ssd_ops import reference
from tests.ops.conftest import Implementation
from tests.ops.properties import strategies as ours
from tests.ops.properties.strategies import cases
from tests.ops.properties.test_box_properties import CODE_TYPES, EXACT

PROPER = ("uniform", "grid")
UNITS = 64  # of the last place, for a sum of 65 numbers


def compare(functions: tuple[Any, Any], inputs: tuple[Tensor, Tensor], seed: int, *options: Any) -> None:
    gradients = []
    for function in functions:
        leaves = [tensor.clone().requires_grad_() for tensor in inputs]
        result = function(*leaves, *options)
        generator = torch.Generator().manual_seed(seed)
        weights = torch.randint(-4, 5, result.shape, generator=generator).to(result.dtype)
        gradients.append(torch.autograd.grad(result, leaves, weights))
    for found, expected in zip(*gradients, strict=True):
        largest = expected.nan_to_num(0, 0, 0).abs().max().item() if expected.numel() else 0.0
        near = UNITS * torch.finfo(expected.dtype).eps * largest
        torch.testing.assert_close(found, expected, rtol=0, atol=near, equal_nan=True)


@st.composite
def pairs(draw: st.DrawFn, kinds: tuple[str, ...]) -> tuple[Tensor, Tensor]:
    lead, dtype = draw(st.sampled_from(((), (2,)))), draw(st.sampled_from((torch.float32, torch.float64)))
    first, second = (draw(ours.boxes(*lead, draw(ours.SIZES), dtype=dtype, kinds=kinds)) for _ in range(2))
    return first, second


@pytest.mark.parametrize("metric", EXACT)
@cases(drawn=pairs((*PROPER, "inverted")), seed=ours.SEEDS)
def test_iou(other: Implementation, metric: str, drawn: tuple[Tensor, Tensor], seed: int) -> None:
    compare((getattr(other, metric), getattr(reference, metric)), drawn, seed)


@cases(drawn=pairs(PROPER), seed=ours.SEEDS)
def test_complete_iou(other: Implementation, drawn: tuple[Tensor, Tensor], seed: int) -> None:
    """Not of inverted boxes: an IoU above 1 makes the penalty's denominator as small as it likes."""
    compare((other.complete_box_iou, reference.complete_box_iou), drawn, seed)


@pytest.mark.parametrize("op", ("encode_boxes", "decode_boxes"))
@cases(data=st.data(), count=ours.SIZES, seed=ours.SEEDS, code_type=st.sampled_from(CODE_TYPES))
def test_codec(other: Implementation, op: str, data: st.DataObject, count: int, seed: int, code_type: str) -> None:
    dtype = data.draw(st.sampled_from((torch.float32, torch.float64)))
    images = data.draw(ours.IMAGES)
    coded, priors = (
        data.draw(ours.boxes(*shape, dtype=dtype, kinds=("uniform",))) for shape in ((images, count), (count,))
    )
    compare((getattr(other, op), getattr(reference, op)), (coded, priors), seed, data.draw(ours.variances()), code_type)
