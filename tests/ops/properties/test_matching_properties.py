"""match_priors on inputs of all kinds: equal to the reference; invariants of the rules."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor

from ssd_ops import reference
from tests.ops.boxes import assert_all_equal, assert_equal
from tests.ops.conftest import Implementation
from tests.ops.properties import strategies as ours
from tests.ops.properties.strategies import cases
from tests.ops.properties.tolerance import assert_within, encode_error

RULES = ("greedy", "last", "none")


@st.composite
def ground_truths(draw: st.DrawFn) -> dict[str, Any]:
    """Ground ground_truths of some images, packed, and priors; some objects equal a prior."""
    counts = draw(st.lists(st.sampled_from((2, 1, 5, 0, 9, 20, 33, 65)), min_size=1, max_size=3))
    total, generator = sum(counts), torch.Generator().manual_seed(draw(ours.SEEDS))
    dtype = draw(ours.FEW_DTYPES)
    priors = draw(ours.boxes(draw(ours.SIZES), dtype=dtype))
    boxes = draw(ours.boxes(total, dtype=draw(st.sampled_from((dtype, torch.float32)))))
    if len(priors) and draw(st.booleans()):
        on_prior = torch.rand(total, 1, generator=generator) < 0.5
        chosen = priors[torch.randint(len(priors), (total,), generator=generator)]
        boxes = torch.where(on_prior, chosen.to(boxes.dtype), boxes)
    labels = torch.randint(1, draw(st.sampled_from((2, 91, 2**62))), (total,), generator=generator)
    offsets = torch.tensor([0, *counts]).cumsum(0)
    ignore = torch.rand(total, generator=generator) < 0.3 if draw(st.booleans()) else None
    return {"gt_boxes": boxes, "gt_labels": labels, "priors": priors, "offsets": offsets, "ignore": ignore}


OPTIONS = st.fixed_dictionaries(
    {
        "iou_threshold": st.one_of(
            st.sampled_from((0.5, 1 / 3, 0.25, 1.0, 0.7, 2.0, 1e-40)), st.floats(2.0**-20, 1.125, width=32)
        ),
        "match_equal": st.booleans(),
        "variances": ours.variances(),
    }
)


@pytest.mark.parametrize("rule", RULES)
@cases(drawn=ground_truths(), options=OPTIONS)
def test_match_priors(other: Implementation, rule: str, drawn: dict[str, Any], options: dict[str, Any]) -> None:
    found, expected = (f.match_priors(**drawn, rule=rule, **options) for f in (other, reference))
    assert_all_equal(found[:2], expected[:2])
    assert_equal(found.loc_targets[..., :2], expected.loc_targets[..., :2])
    sizes = expected.loc_targets[..., 2:]
    assert_within(found.loc_targets[..., 2:], sizes, encode_error(sizes))


@pytest.mark.parametrize("rule", RULES)
@cases(drawn=ground_truths(), options=OPTIONS)
def test_image_by_image(impl: Implementation, rule: str, drawn: dict[str, Any], options: dict[str, Any]) -> None:
    together = impl.match_priors(**drawn, rule=rule, **options)
    for b, (begin, end) in enumerate(pairwise(drawn["offsets"].tolist())):
        lists = {name: [drawn[name][begin:end]] for name in ("gt_boxes", "gt_labels")}
        ignore = None if drawn["ignore"] is None else [drawn["ignore"][begin:end]]
        alone = impl.match_priors(**lists, ignore=ignore, priors=drawn["priors"], rule=rule, **options)
        assert_all_equal([part[0] for part in alone], [part[b] for part in together])


@cases(drawn=ground_truths(), options=OPTIONS)
def test_greedy_gives_every_object_its_own_prior(
    impl: Implementation, drawn: dict[str, Any], options: dict[str, Any]
) -> None:
    """An object without one overlaps only priors that are assigned to objects with the same or a higher IoU.

    So an object that overlaps as many priors as its image has objects always has one; and a prior that no object takes as
    its own is assigned to the object that it overlaps most, at the threshold or above.
    """
    found = impl.match_priors(**drawn, rule="greedy", **options)
    for b, (begin, end) in enumerate(pairwise(drawn["offsets"].tolist())):
        iou = reference.box_iou(*_promoted(drawn["gt_boxes"][begin:end], drawn["priors"])).nan_to_num(0)
        if drawn["ignore"] is not None:
            iou[drawn["ignore"][begin:end]] = 0
        overlaps = iou > 0
        owners = torch.zeros(end - begin, dtype=torch.bool)
        matched = found.gt_index[b]
        owners[matched[matched >= 0]] = True
        assert (owners | (overlaps.sum(1) < end - begin) | ~overlaps.any(1)).all()
        for g in (~owners & overlaps.any(1)).nonzero()[:, 0].tolist():
            priors = overlaps[g].nonzero()[:, 0]
            assert (matched[priors] >= 0).all()
            assert (iou[matched[priors], priors] >= iou[g, priors]).all()


def _promoted(boxes: Tensor, priors: Tensor) -> tuple[Tensor, Tensor]:
    dtype = torch.float64 if torch.float64 in (boxes.dtype, priors.dtype) else torch.float32
    return boxes.to(dtype), priors.to(dtype)
