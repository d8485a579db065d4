"""Many objects in an image, most of which propose to the same priors and are rejected: the matching equals Caffe's."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import ssd_ops
from tests.ops.boxes import assert_equal, random_boxes, tied_boxes
from tests.ops.conftest import Implementation


def nested(count: int, step: float) -> torch.Tensor:
    """Returns nested boxes `[count, 4]`."""
    i = torch.arange(count)[:, None]
    return torch.tensor([[0.3, 0.3, 0.7, 0.7]]) + i * torch.tensor([[-step, -step, step, step]])


@pytest.mark.parametrize("step", (0.0, 1e-6, 1e-3))
def test_nested_objects(impl: Implementation, step: float) -> None:
    """More objects than the CPU caches proposals of; equal ones (step 0) are rejected by every prior but one."""
    if impl.name == "reference":
        pytest.skip("compared with")
    count = 300 if impl.name == "cpu" else 40
    boxes = nested(count, step)[torch.randperm(count, generator=torch.Generator().manual_seed(0))]
    labels, priors = torch.arange(1, count + 1), random_boxes(count + 50, seed=4).clamp(0, 1)
    ignore = [torch.arange(count) % 7 == 3]
    for options in ({}, {"ignore": ignore}):
        found = impl.match_priors([boxes], [labels], priors, **options)
        expected = ssd_ops.reference.match_priors([boxes], [labels], priors, **options)
        assert_equal(found.gt_index, expected.gt_index)
        assert_equal(found.labels, expected.labels)


@pytest.mark.parametrize("rule", ("greedy", "last", "none"))
@pytest.mark.parametrize("make", (random_boxes, tied_boxes))
def test_several_warps_per_tile_of_priors(impl: Implementation, make: Callable[..., Tensor], rule: str) -> None:
    """On a GPU the warps of a block share the objects, and several blocks assign them; ties go to the first of all."""
    if impl.name == "reference":
        pytest.skip("compared with")
    for count, dtype in ((70, torch.float32), (200, torch.float32), (140, torch.float64)):
        boxes, priors = make(count, seed=count, dtype=dtype), make(75, seed=1, dtype=dtype)
        labels, ignore = torch.arange(1, count + 1), [torch.arange(count) % 5 == 1]
        found, expected = (
            f.match_priors([boxes], [labels], priors, rule=rule, ignore=ignore) for f in (impl, ssd_ops.reference)
        )
        assert_equal(found.gt_index, expected.gt_index)
        assert_equal(found.labels, expected.labels)


@pytest.mark.skipif(ssd_ops.build_info()["backend"] == "reference", reason="minutes on the reference")
def test_thousands_of_nested_objects() -> None:
    """Took a minute of one core before rejected objects resumed where they had stopped."""
    boxes, priors = nested(2000, 1e-6), random_boxes(4000, seed=4).clamp(0, 1)
    found = ssd_ops.match_priors([boxes], [torch.ones(2000, dtype=torch.int64)], priors, iou_threshold=2.0)
    assigned = found.gt_index[0][found.gt_index[0] >= 0]
    assert assigned.unique().numel() == assigned.numel() > 1000
