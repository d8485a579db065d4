"""Tests how the time that training waits for data is measured and shown."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
import torch

from ssd.engine.data_wait import DataWait
from ssd.engine.meter import EpochMeans


def slow_batches(seconds: float) -> Iterator[int]:
    for index in range(4):
        time.sleep(seconds)
        yield index


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def test_waits_between_steps_are_measured(device: str) -> None:
    waits = DataWait(torch.device(device))
    assert list(waits.timed(slow_batches(0.02))) == [0, 1, 2, 3]
    if device == "cuda":
        torch.cuda.synchronize()
    assert waits.take() >= 0.055, "three waits, without the first one"
    assert waits.take() == 0


@pytest.mark.cuda
def test_host_wait_during_a_step_on_the_gpu_is_not_counted() -> None:
    waits = DataWait(torch.device("cuda"))
    for _ in waits.timed(slow_batches(0.005)):
        torch.cuda._sleep(100_000_000)  # at least 0.04 s
    torch.cuda.synchronize()
    assert waits.take() < 0.005


def test_share_of_waiting_is_shown_where_it_is_notable() -> None:
    means = EpochMeans()
    means.add({"loc_loss": 1.0, "cls_loss": 2.0, "images_per_second": 10.0}, steps=5, seconds=2.0)
    assert str(means) == "loc loss 1.000, cls loss 2.000, 10.0 images/s" and means.describe_waiting() == ""
    means.waiting = 0.68
    assert means.describe_waiting() == ", waiting for data 34%"


def test_finite_losses_that_have_diverged_are_named() -> None:
    means = EpochMeans()
    assert means.describe_divergence() == ""
    means.add({"loc_loss": 300.0, "cls_loss": 400.0, "images_per_second": 10.0}, steps=9, seconds=1.0)
    assert means.describe_divergence() == ""
    means.add({"loc_loss": 1e6, "cls_loss": 0.0, "images_per_second": 10.0}, steps=1, seconds=1.0)
    assert means.describe_divergence().startswith(" (diverged: try a tenth of --lr")
