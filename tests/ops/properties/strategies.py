"""Strategies of hypothesis for boxes, scores, priors and logits of every kind that has revealed a bug.

hypothesis draws sizes, kinds, options and a seed; torch fills the tensors from them, which is a hundred times faster than
drawing every number. A kind comes earlier in its list the simpler it is, since a failing case shrinks towards the first.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.ops.boxes import random_boxes, tied_boxes

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
# Small ones, and those around the edges of warps, tiles and blocks.
SIZES = st.one_of(st.sampled_from((5, 2, 1, 12, 0, 31, 32, 33, 63, 64, 65)), st.integers(3, 40))
IMAGES = st.sampled_from((1, 2, 3, 2, 1, 0))
MIN_SIZES = st.sampled_from((0.0, 0.0, 0.25, 1.0, 1 / 3, 1e-40))
SUPPRESS_EQUAL = st.booleans()
SEEDS = st.integers(0, 2**31 - 1)
FEW_DTYPES = st.sampled_from((torch.float32, torch.float32, *DTYPES))
# Many of them are IoUs that boxes on a grid have; 1 / 3 is no float.
IOU_THRESHOLDS = st.one_of(
    st.sampled_from((0.5, 0.0, 1 / 3, 1.0, 0.25, 0.45, 0.2, -0.1, 1.5, 1e-40)), st.floats(-0.25, 1.125, width=32)
)

judged = 0


def cases(**strategies: st.SearchStrategy[Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """As `given`, and counts the completed cases."""

    def decorate(test: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(test)
        def counted(*args: Any, **kwargs: Any) -> None:
            global judged
            test(*args, **kwargs)
            judged += 1

        return given(**strategies)(counted)

    return decorate


def special(dtype: torch.dtype) -> Tensor:
    """Returns the numbers that are special in `dtype`, float32 and float16: limits, subnormals, NaN, inf."""
    info = torch.finfo(dtype)
    half = [65504.0, 65520.0, -65504.0, 2.0**-24, 2.0**-14, 1 + 2.0**-10]
    single = [3.4028234663852886e38, -3.4028234663852886e38, 1.8446744e19, 1.1754944e-38, 1e-45, -1e-45, 1 + 2.0**-23]
    plain = [0.0, -0.0, 0.5, 1.0, -1.0, 2.0, float("nan"), float("inf"), -float("inf")]
    own = [info.max, info.min, info.max**0.5, info.smallest_normal, info.smallest_normal * info.eps, 1 + info.eps]
    return torch.tensor([*plain, *own, *half, *single], dtype=torch.float64).to(dtype)


def _pick(values: Tensor, *shape: int, generator: torch.Generator) -> Tensor:
    return values[torch.randint(len(values), shape, generator=generator)]


def _scaled(*shape: int, generator: torch.Generator, dtype: torch.dtype) -> Tensor:
    """Random boxes, each scaled by its own power of two."""
    span = 15 if dtype == torch.float16 else 120
    power = torch.randint(-span, span, (*shape, 1), generator=generator).double()
    return (random_boxes(*shape, seed=int(power.sum()) & 0xFFFF, dtype=torch.float64) * 2.0**power).to(dtype)


def _subnormal(*shape: int, generator: torch.Generator, dtype: torch.dtype) -> Tensor:
    smallest = torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps
    return (torch.randint(0, 9, (*shape, 4), generator=generator) * smallest).to(dtype)


def _neighbors(*shape: int, generator: torch.Generator, dtype: torch.dtype) -> Tensor:
    """Boxes on a grid, each coordinate off by up to two ulp."""
    steps = torch.randint(-2, 3, (*shape, 4), generator=generator) * torch.finfo(dtype).eps
    low = torch.randint(1, 4, (*shape, 2), generator=generator)
    size = torch.randint(1, 4, (*shape, 2), generator=generator)
    return (torch.cat([low, low + size], dim=-1).double() * (1 + steps.double())).to(dtype)


def _inverted(*shape: int, generator: torch.Generator, dtype: torch.dtype) -> Tensor:
    """Boxes with many inverted or empty sides: zero and negative areas."""
    return (torch.rand(*shape, 4, generator=generator) * 2 - 1).mul(4).round().div(4).to(dtype)


def _far(*shape: int, generator: torch.Generator, dtype: torch.dtype) -> Tensor:
    """Small boxes far from the origin, where coordinates are coarse."""
    away = torch.randint(-3, 4, (*shape, 1), generator=generator) * (1.0 / torch.finfo(dtype).eps) / 16
    return (tied_boxes(*shape, seed=int(away.abs().sum()) & 0xFFFF).double() + away).to(dtype)


def _special(*shape: int, generator: torch.Generator, dtype: torch.dtype) -> Tensor:
    return _pick(special(dtype), *shape, 4, generator=generator)


def _uniform(*shape: int, generator: torch.Generator, dtype: torch.dtype) -> Tensor:
    return random_boxes(*shape, seed=int(torch.randint(2**31, (), generator=generator)), dtype=dtype)


def _grid(*shape: int, generator: torch.Generator, dtype: torch.dtype) -> Tensor:
    return tied_boxes(*shape, seed=int(torch.randint(2**31, (), generator=generator)), dtype=dtype)


PROPER = {"uniform": _uniform, "grid": _grid, "neighbors": _neighbors, "far": _far}
BOXES = {**PROPER, "inverted": _inverted, "scaled": _scaled, "subnormal": _subnormal, "special": _special}


@st.composite
def boxes(draw: st.DrawFn, *shape: int, dtype: torch.dtype = torch.float32, kinds: tuple[str, ...] = ()) -> Tensor:
    """Boxes `[*shape, 4]` of up to two kinds, a few of them repeated."""
    chosen = draw(st.lists(st.sampled_from(kinds or tuple(BOXES)), min_size=1, max_size=2))
    generator = torch.Generator().manual_seed(draw(SEEDS))
    made = torch.stack([BOXES[kind](*shape, generator=generator, dtype=dtype) for kind in chosen])
    which = torch.randint(len(chosen), (*shape, 1), generator=generator).expand(*shape, 4)
    return repeated(draw, made.gather(0, which[None])[0].reshape(-1, 4), generator).reshape(*shape, 4)


def repeated(draw: st.DrawFn, rows: Tensor, generator: torch.Generator) -> Tensor:
    """Rows of which some, or all, are copies of a few of them."""
    few = draw(st.sampled_from((0, 0, 0, 1, 3)))
    if not few or not len(rows):
        return rows
    source = torch.randint(min(few, len(rows)), (len(rows),), generator=generator)
    copied = torch.rand(len(rows), generator=generator) < draw(st.sampled_from((1.0, 0.5)))
    return rows[torch.where(copied, source, torch.arange(len(rows)))]


def _levels(*shape: int, generator: torch.Generator) -> Tensor:
    return torch.randint(-2, 6, shape, generator=generator) / 4.0


def _ladder(*shape: int, generator: torch.Generator) -> Tensor:
    """Neighboring floats around a half."""
    return 0.5 + torch.randint(-3, 4, shape, generator=generator) * 2.0**-24


SCORES: dict[str, Callable[..., Tensor]] = {
    "random": lambda *shape, generator: torch.rand(*shape, generator=generator),
    "levels": _levels,
    "tenths": lambda *shape, generator: torch.randint(-2, 9, shape, generator=generator) / 10.0,  # no float is one
    "equal": lambda *shape, generator: torch.full(shape, 0.5),
    "ladder": _ladder,
    "normal": lambda *shape, generator: torch.randn(*shape, generator=generator) * 100,
    "subnormal": lambda *shape, generator: torch.randint(-3, 9, shape, generator=generator) * 1e-45,
    "special": lambda *shape, generator: _pick(special(torch.float32), *shape, generator=generator),
}
SCORE_THRESHOLDS = st.one_of(
    st.sampled_from((0.3, 0.0, 0.5, -1.0, 0.05, 0.1, -1e300, 1e-45)), st.floats(-1, 0.5, width=32)
)


@st.composite
def scores(draw: st.DrawFn, *shape: int, dtype: torch.dtype = torch.float32, kinds: tuple[str, ...] = ()) -> Tensor:
    """Scores of up to two kinds."""
    chosen = draw(st.lists(st.sampled_from(kinds or tuple(SCORES)), min_size=1, max_size=2))
    generator = torch.Generator().manual_seed(draw(SEEDS))
    made = torch.stack([SCORES[kind](*shape, generator=generator) for kind in chosen])
    which = torch.randint(len(chosen), shape, generator=generator)
    return made.gather(0, which[None])[0].to(dtype)


@st.composite
def variances(draw: st.DrawFn) -> tuple[float, ...]:
    """Two or four variances."""
    return draw(st.sampled_from(((0.1, 0.2), (0.1, 0.2, 0.3, 0.4), (1.0, 1.0), (0.125, 8.0))))
