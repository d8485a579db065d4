"""Checks and measures used by the benchmarks of whole detectors."""

from __future__ import annotations

import pytest
import torch

from benchmarks.detector_pair import same_matches
from benchmarks.gpu_busy import union_length


def test_overlapping_kernels_are_counted_once() -> None:
    assert union_length([(0.0, 2.0), (1.0, 3.0), (1.5, 2.5), (5.0, 6.0)]) == 4.0
    assert union_length([]) == 0.0


def test_same_matches_compares_each_prior() -> None:
    labels, boxes = torch.tensor([[0, 1, 2]]), torch.rand(1, 3, 4)
    same_matches((labels, boxes), (labels.clone(), boxes.clone()))
    with pytest.raises(AssertionError, match="2 priors have another match, at most 0 expected"):
        same_matches((torch.tensor([[1, 1, 2]]), boxes), (labels, boxes + torch.tensor([[[0.0], [0.0], [1.0]]])))
