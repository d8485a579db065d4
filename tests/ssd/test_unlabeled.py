"""Tests that detections of the EMA that no annotation covers are ignored by the loss, or trained as objects."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

import ssd_ops
from ssd.common.errors import ConfigError
from ssd.config import TrainConfig, check_settings
from ssd.data import Batch
from ssd.engine import step
from ssd.engine.checkpoint import collect, get_rng_state, restore
from ssd.engine.unlabeled import with_unlabeled
from ssd.models import build_model
from ssd.presets import Preset

COVERED = [0.1, 0.1, 0.3, 0.3]
BESIDE = [0.6, 0.6, 0.8, 0.8]
OTHER = [0.1, 0.6, 0.3, 0.8]


def batch_of(boxes: list[list[list[float]]], ignore: list[bool]) -> Batch:
    counts = [len(rows) for rows in boxes]
    return Batch(
        images=torch.zeros(len(boxes), 3, 64, 64, dtype=torch.uint8),
        gt_boxes=torch.tensor([row for rows in boxes for row in rows]).reshape(-1, 4),
        gt_labels=torch.arange(2, 2 + sum(counts)),
        ignore=torch.tensor(ignore, dtype=torch.bool),
        offsets=torch.tensor([0, *counts]).cumsum(0),
        image_ids=list(range(len(boxes))),
        sizes=torch.full((len(boxes), 2), 64),
    )


def detector(boxes: list[list[list[float]]], scores: list[list[float]] | None = None) -> Any:
    """Returns a fake model that detects these boxes in any image of 64 pixels, as objects of class 3.

    It gets the images extended by 3 pixels on each side.
    """
    rows = max(map(len, boxes))
    padded = torch.tensor([[*own, *[[0.0] * 4] * (rows - len(own))] for own in boxes])
    padded = (padded * 64 + 3) / 70
    counts = torch.tensor([len(own) for own in boxes])

    def detect(loc: Tensor, logits: Tensor, rules: Preset) -> ssd_ops.Detections:
        assert rules.score_threshold == 0.3 and rules.max_detections == 100 and not rules.clip_boxes
        found = torch.ones(len(boxes), rows) if scores is None else torch.tensor(scores)
        found = found.masked_fill(torch.arange(rows) >= counts[:, None], 0.0)
        return ssd_ops.Detections(padded, found, torch.full((len(boxes), rows), 3), counts)

    return SimpleNamespace(
        preset=Preset("test"), detect=detect, forward_raw=lambda images: (torch.zeros(1), torch.zeros(1))
    )


def test_only_uncovered_detections_are_ignored() -> None:
    # COVERED of image 1 covers nothing in image 0, and an ignored annotation covers as others do
    batch = batch_of([[COVERED], [], [COVERED, BESIDE]], [False, True, False])
    found = detector([[COVERED, BESIDE], [COVERED], [OTHER, COVERED, BESIDE]])
    result = with_unlabeled(found, torch.zeros(3, 3, 64, 64), batch, 0.3)
    none = [0.0] * 4
    rows = [COVERED, none, BESIDE, none, COVERED, none, none, COVERED, BESIDE, OTHER, none, none]
    torch.testing.assert_close(result.gt_boxes, torch.tensor(rows))
    assert result.offsets.tolist() == [0, 4, 7, 12]
    assert result.ignore.tolist() == [False, *[True] * 7, False, *[True] * 3]
    assert result.gt_labels[[0, 7, 8]].tolist() == [2, 3, 4]


def test_detections_above_the_second_score_are_objects() -> None:
    batch = batch_of([[COVERED], []], [False])
    found = detector([[BESIDE, COVERED, OTHER], [OTHER]], [[0.9, 0.9, 0.8], [0.79, 0.0, 0.0]])
    result = with_unlabeled(found, torch.zeros(2, 3, 64, 64), batch, 0.3, 0.8)
    none = [0.0] * 4
    torch.testing.assert_close(result.gt_boxes, torch.tensor([COVERED, BESIDE, none, OTHER, OTHER, none, none]))
    assert result.offsets.tolist() == [0, 4, 7]
    assert result.ignore.tolist() == [False, False, True, False, True, True, True]
    assert result.gt_labels[[0, 1, 3]].tolist() == [2, 3, 3]
    only = with_unlabeled(found, torch.zeros(2, 3, 64, 64), batch, math.inf, 0.3)
    assert only.ignore.tolist() == [False, False, True, False, False, True, True]


def test_detections_beyond_the_border_are_clipped_or_dropped() -> None:
    found = detector([[[-0.05, 0.2, 0.1, 0.4], [-0.05, 0.6, 0.005, 0.8]]], [[0.9, 0.8]])
    result = with_unlabeled(found, torch.zeros(1, 3, 64, 64), batch_of([[]], []), 0.3, 0.5)
    torch.testing.assert_close(result.gt_boxes, torch.tensor([[0.0, 0.2, 0.1, 0.4], [0.0] * 4]))
    assert result.ignore.tolist() == [False, True]


def test_priors_of_ignored_detections_are_not_sampled() -> None:
    priors = torch.tensor([COVERED, BESIDE, OTHER])
    result = with_unlabeled(detector([[BESIDE]]), torch.zeros(1, 3, 64, 64), batch_of([[COVERED]], [False]), 0.3)
    matches = ssd_ops.match_priors(
        result.gt_boxes, result.gt_labels, priors, offsets=result.offsets, ignore=result.ignore
    )
    assert matches.labels.tolist() == [[2, -1, 0]]


def test_ignoring_starts_after_a_quarter_of_the_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = build_model("ssd_tiny", 4, image_size=64, width=4, levels=2).train()
    config = TrainConfig(ignore_unlabeled=0.05, label_unlabeled=0.5, iterations=8, batch_size=2)
    state, used = step.make_state(config, model, 4), []

    def spy(ema: Any, images: Tensor, batch: Batch, *scores: float) -> Batch:
        assert ema is state.ema.module and not ema.training and scores == (0.05, 0.5)
        used.append(state.step)
        return with_unlabeled(ema, images, batch, *scores)

    monkeypatch.setattr(step, "with_unlabeled", spy)
    batch = replace(batch_of([[COVERED], [BESIDE]], [False, False]), gt_labels=torch.tensor([1, 2]))
    for _ in range(4):
        losses = step.train_step(config, state, batch)
    assert used == [2, 3] and all(bool(loss.isfinite()) for loss in losses.values())


def test_ignoring_continues_when_epochs_are_added() -> None:
    model = build_model("ssd_tiny", 4, image_size=64, width=4, levels=2).train()
    config = TrainConfig(ignore_unlabeled=0.05, iterations=8, batch_size=2)
    before = step.make_state(config, model, 4)
    before.step = 3
    longer = step.make_state(replace(config, iterations=80), model, 4)
    assert before.adds_unlabeled() and longer.unlabeled_from == 20
    restore(collect(before, [get_rng_state()]), "last.pt", longer)
    assert longer.adds_unlabeled()
    without = step.make_state(replace(config, ignore_unlabeled=0.0), model, 4)
    restore(collect(before, [get_rng_state()]), "last.pt", without)
    assert not without.adds_unlabeled()


def test_ignore_unlabeled_needs_ema() -> None:
    with pytest.raises(ConfigError, match="--ignore-unlabeled needs the EMA"):
        check_settings(TrainConfig(ignore_unlabeled=0.5, ema_decay=0.0))
    with pytest.raises(ConfigError, match="--label-unlabeled needs the EMA"):
        check_settings(TrainConfig(label_unlabeled=0.5, ema_decay=0.0))
    with pytest.raises(ConfigError, match=r"--label-unlabeled must be at least --ignore-unlabeled 0.5, got 0.4"):
        check_settings(TrainConfig(ignore_unlabeled=0.5, label_unlabeled=0.4))
    with pytest.raises(ConfigError, match=r"--ignore-unlabeled must be in \[0, 1\), got 1.5"):
        check_settings(TrainConfig(ignore_unlabeled=1.5))
