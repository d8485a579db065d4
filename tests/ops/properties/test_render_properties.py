"""render_images on images, crops and color_matrices of all kinds: equal to the reference; invariants."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import strategies as st

from ssd_ops import reference
from tests.ops.boxes import assert_equal
from tests.ops.conftest import Implementation
from tests.ops.properties import strategies as ours
from tests.ops.properties.strategies import cases

SIDES = st.sampled_from((5, 1, 2, 0, 17, 40))


@st.composite
def batches(draw: st.DrawFn) -> dict[str, Any]:
    """Up to three images; crops of every kind of boxes, some stretched to the size of images."""
    count = draw(ours.IMAGES)
    generator = torch.Generator().manual_seed(draw(ours.SEEDS))
    shapes = [(3, draw(SIDES), draw(SIDES)) for _ in range(count)]
    images = [torch.randint(0, 256, shape, generator=generator).to(torch.uint8) for shape in shapes]
    crops = draw(ours.boxes(count, dtype=draw(ours.FEW_DTYPES))) * draw(st.sampled_from((20.0, 1.0, 7.3)))
    color_matrices = torch.eye(3, 4) + torch.randn(count, 3, 4, generator=generator) * draw(
        st.sampled_from((0.3, 100.0))
    )
    return {
        "images": images,
        "crops": crops - draw(st.sampled_from((0.0, 3.0, 5.5))),
        "size": draw(st.sampled_from((4, 1, 3, 9, 33))),
        "flip": torch.rand(count, generator=generator) < 0.5 if draw(st.booleans()) else None,
        "color_matrices": color_matrices if draw(st.booleans()) else None,
        "hue": torch.randn(count, generator=generator) * draw(st.sampled_from((0.3, 1e9, 1e38)))
        if draw(st.booleans())
        else None,
        "antialias": draw(st.booleans()),
    }


OPTIONS = st.fixed_dictionaries(
    {
        "fill": st.sampled_from(((0.0, 0.0, 0.0), (1.0, 127.5, 300.0))),
        "mean": st.sampled_from(((0.0, 0.0, 0.0), (123.675, 116.28, 103.53))),
        "std": st.sampled_from(((1.0, 1.0, 1.0), (58.395, 57.12, 57.375), (1e-3, 1e5, 3.0))),
        "dtype": st.sampled_from((torch.float32, torch.float16, torch.bfloat16)),
    }
)


@cases(drawn=batches(), options=OPTIONS)
def test_render_images(other: Implementation, drawn: dict[str, Any], options: dict[str, Any]) -> None:
    assert_equal(other.render_images(**drawn, **options), reference.render_images(**drawn, **options))


@cases(drawn=batches())
def test_flip_mirrors(impl: Implementation, drawn: dict[str, Any]) -> None:
    every = torch.ones(len(drawn["crops"]), dtype=torch.bool)
    plain = impl.render_images(**{**drawn, "flip": None})
    assert_equal(impl.render_images(**{**drawn, "flip": every}), plain.flip(-1))
    assert ((plain >= 0) & (plain <= 255)).all()
