"""Tolerances for results that pass through exp, log or atan; all others are compared exactly.

Each of these functions is within 2 units of the last place (ulp) of the truth in every implementation (4 apart at most);
what follows is how such an error grows on its way to the result.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ssd_ops import reference
from ssd_ops.checks import four_variances
from ssd_ops.reference.codec import MAX_LOG_SIZE


def assert_within(found: Tensor, expected: Tensor, error: Tensor, anything: Tensor | bool = False) -> None:
    """Asserts errors of at most `error [...]` (float64); NaN and inf must be the same, but where `anything` is true."""
    assert found.shape == expected.shape and found.dtype == expected.dtype
    difference = (found.double() - expected.double()).abs()
    same = (found == expected) | (found.isnan() & expected.isnan())
    wrong = ~(same | (difference <= error) | anything)
    if bool(wrong.any()):
        worst = tuple(wrong.nonzero()[0].tolist())
        raise AssertionError(
            f"{int(wrong.sum())} of {wrong.numel()} numbers differ, first at {list(worst)}: got {found[worst]}, "
            f"expected {expected[worst]} within {error.expand_as(expected)[worst]:.3g}"
        )


def encode_error(expected: Tensor) -> Tensor:
    """log of the same ratio, over a variance: relative; half an ulp more for the division."""
    info = torch.finfo(expected.dtype)
    return expected.double().abs() * 5 * info.eps + info.smallest_normal * info.eps


def decode_error(deltas: Tensor, priors: Tensor, variances: Sequence[float], expected: Tensor) -> tuple[Tensor, Tensor]:
    """exp of the same number times half a side, plus the same center, rounded once more; and where any value is accepted.

    The exponential of a large negative number is subnormal, where an ulp is large beside the number. Where the size is
    within rounding of the largest number, one implementation may have inf.
    """
    info = torch.finfo(expected.dtype)
    variance = torch.tensor(four_variances(variances)[2:], dtype=expected.dtype)
    step = (deltas[..., 2:].to(expected.dtype) * variance).double().clamp(max=MAX_LOG_SIZE)
    side = (priors.to(expected.dtype)[..., 2:] - priors.to(expected.dtype)[..., :2]).double().abs()
    size = (step.exp() + info.smallest_normal) * side
    error = size / 2 * 5 * info.eps + info.smallest_normal * info.eps
    overflows = (size / info.max - 1).abs() < 8 * info.eps
    return torch.cat([error, error], dim=-1) + expected.double().abs() * info.eps, torch.cat([overflows, overflows], -1)


def complete_iou_error(boxes1: Tensor, boxes2: Tensor, expected: Tensor) -> tuple[Tensor, Tensor]:
    """The penalty is u^2 / (1 - iou + u), where u is the squared difference of two angles; and where any value is accepted.

    IoUs of inverted boxes can be above 1, and where the denominator is about 0 the penalty can be any number.
    """
    dtype, eps = expected.dtype, torch.finfo(expected.dtype).eps
    sides = [boxes.to(dtype)[..., 2:] - boxes.to(dtype)[..., :2] for boxes in (boxes1, boxes2)]
    first, second = ((s[..., 0] / s[..., 1]).double().atan().nan_to_num(0) for s in sides)
    apart = first[..., :, None] - second[..., None, :]
    unlike = 4 / math.pi**2 * apart * apart
    angle = 4 * eps * math.pi / 2  # the error of the difference of two
    error = 4 / math.pi**2 * (2 * apart.abs() + angle) * angle + 3 * eps * unlike
    rest = 1 - reference.box_iou(boxes1, boxes2).double() + reference.overlap.EPSILON
    denominator = (rest + unlike).abs()
    slope = (unlike * (2 * rest + unlike)).abs() / denominator**2
    rounded = (unlike**2 / denominator + expected.double().abs()) * 4 * eps
    return slope * error + error**2 / denominator + rounded, denominator < 1e3 * error
