"""Gradients of the IoU family and of the codec equal autograd's of the reference, ties and clamps included.

Sums run in another order than autograd's, so numbers are compared relative to the sum of what they are made of, each term
taken without its sign.
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
from tests.ops.properties.tolerance import assert_within

PROPER = ("uniform", "grid")
UNITS = 64  # of the last place
FLOOR = 8.0  # of a term: those of two equal boxes cancel within the pair
LARGEST_GROWTH = 62.5  # of a prior by decoding; half of it and a moved center may cancel within any of the four numbers


def gradients(function: Any, inputs: tuple[Tensor, Tensor], weights: Tensor, *options: Any) -> tuple[Tensor, ...]:
    leaves = [tensor.clone().requires_grad_() for tensor in inputs]
    result = function(*leaves, *options)
    return torch.autograd.grad(result, leaves, weights.to(result.dtype))


def drawn_weights(*shape: int, seed: int) -> Tensor:
    return torch.randint(-4, 5, shape, generator=torch.Generator().manual_seed(seed)).float()


def compare_iou(other: Implementation, metric: str, inputs: tuple[Tensor, Tensor], seed: int) -> None:
    first, second = inputs
    weights = drawn_weights(*first.shape[:-1], second.shape[-2], seed=seed)
    found, expected = (gradients(getattr(f, metric), inputs, weights) for f in (other, reference))
    shape = (*weights.shape, 1, 4)  # every pair by itself
    alone = (first.double()[..., :, None, None, :].expand(shape), second.double()[..., None, :, None, :].expand(shape))
    terms = gradients(getattr(reference, metric), alone, weights[..., None, None])
    for k, axis in ((0, -2), (1, -3)):
        size = (terms[k][..., 0, :].abs() + FLOOR * weights.abs()[..., None]).sum(axis)
        assert_within(found[k], expected[k], UNITS * torch.finfo(first.dtype).eps * size)


@st.composite
def pairs(draw: st.DrawFn, kinds: tuple[str, ...]) -> tuple[Tensor, Tensor]:
    lead, dtype = draw(st.sampled_from(((), (2,)))), draw(st.sampled_from((torch.float32, torch.float64)))
    first, second = (draw(ours.boxes(*lead, draw(ours.SIZES), dtype=dtype, kinds=kinds)) for _ in range(2))
    return first, second


@pytest.mark.parametrize("metric", EXACT)
@cases(drawn=pairs((*PROPER, "inverted")), seed=ours.SEEDS)
def test_iou(other: Implementation, metric: str, drawn: tuple[Tensor, Tensor], seed: int) -> None:
    compare_iou(other, metric, drawn, seed)


@cases(drawn=pairs(PROPER), seed=ours.SEEDS)
def test_complete_iou(other: Implementation, drawn: tuple[Tensor, Tensor], seed: int) -> None:
    """Without inverted boxes: an IoU above 1 makes the penalty's denominator arbitrarily small."""
    compare_iou(other, "complete_box_iou", drawn, seed)


@pytest.mark.parametrize("op", ("encode_boxes", "decode_boxes"))
@cases(data=st.data(), count=ours.SIZES, seed=ours.SEEDS, code_type=st.sampled_from(CODE_TYPES))
def test_codec(other: Implementation, op: str, data: st.DataObject, count: int, seed: int, code_type: str) -> None:
    dtype = data.draw(st.sampled_from((torch.float32, torch.float64)))
    images = data.draw(ours.IMAGES)
    coded, priors = (
        data.draw(ours.boxes(*shape, dtype=dtype, kinds=("uniform",))) for shape in ((images, count), (count,))
    )
    weights, options = drawn_weights(*coded.shape, seed=seed), (data.draw(ours.variances()), code_type)
    found, expected = (gradients(getattr(f, op), (coded, priors), weights, *options) for f in (other, reference))
    size = [torch.zeros(coded.shape, dtype=torch.float64) for _ in range(2)]
    for k in range(4):  # what each of the four numbers adds to the gradient of its box and prior
        one = weights * (torch.arange(4) == k)
        for total, part in zip(
            size,
            gradients(getattr(reference, op), (coded.double(), priors.double().expand_as(coded)), one, *options),
            strict=True,
        ):
            total += part.abs() + LARGEST_GROWTH / 2 * one.abs().sum(-1, keepdim=True)
    near = UNITS * torch.finfo(dtype).eps
    assert_within(found[0], expected[0], near * size[0])
    assert_within(found[1], expected[1], near * size[1].sum(0))
