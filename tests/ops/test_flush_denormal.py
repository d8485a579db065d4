"""Where the CPU flushes subnormal numbers to 0 (torch.set_flush_denormal), a threshold of 0 excludes zeros."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

import ssd_ops
from tests.ops.boxes import assert_all_equal, random_boxes

BOXES = random_boxes(1, 6)


@pytest.fixture(autouse=True)
def flushed() -> Iterator[None]:
    if not torch.set_flush_denormal(True):
        pytest.skip("this CPU cannot")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the setting is that of a thread
    yield
    torch.set_flush_denormal(False)
    torch.set_num_threads(threads)


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64, torch.float16))
def test_scores_of_zero(dtype: torch.dtype) -> None:
    scores = torch.zeros(1, 6, 3, dtype=dtype)
    scores[0, 0, 1], scores[0, 1, 2] = 0.5, -0.0
    nms = {"iou_threshold": 0.5, "candidates_per_class": 9, "max_detections": 12}
    for threshold in (0.0, -0.25, 1e-300, 1e-45):
        for name, options in (("multiclass_nms", nms), ("soft_nms", {"method": "linear", "max_detections": 12})):
            found = getattr(ssd_ops, name)(BOXES, scores, score_threshold=threshold, **options)
            expected = getattr(ssd_ops.reference, name)(BOXES, scores, score_threshold=threshold, **options)
            assert_all_equal(found, expected)


@pytest.mark.parametrize("match_equal", (True, False))
def test_overlaps_of_zero(match_equal: bool) -> None:
    far = torch.tensor([[5.0, 5.0, 6.0, 6.0]])
    options = {"iou_threshold": 1e-50, "rule": "none", "match_equal": match_equal}
    for ignore in (None, [torch.tensor([True])]):
        found = ssd_ops.match_priors([far], [torch.tensor([1])], BOXES[0], ignore=ignore, **options)
        assert (found.labels == 0).all()
