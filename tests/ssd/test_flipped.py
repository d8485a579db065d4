"""Tests the average over a horizontal flip."""

from __future__ import annotations

import pytest
import torch

import ssd_ops
from ssd.inference.engine import InferenceEngine
from ssd.models import SSD, build_model
from ssd.models.flipped import flip_averaged
from tests.ssd.small_detectors import spread_detector


@pytest.fixture(scope="module")
def model() -> SSD:
    return spread_detector(score_threshold=0.0)


def test_flipped_image_gives_flipped_outputs(model: SSD) -> None:
    averaged = flip_averaged(model)
    image = torch.randn(1, 3, 64, 64)
    loc, logits = averaged.forward_raw(image)
    flipped_loc, flipped_logits = averaged.forward_raw(image.flip(-1))
    boxes, flipped = (ssd_ops.decode_boxes(deltas, model.priors)[0] for deltas in (loc, flipped_loc))
    mirror = torch.stack([1 - flipped[:, 2], flipped[:, 1], 1 - flipped[:, 0], flipped[:, 3]], dim=1)
    order = averaged.mirrored
    torch.testing.assert_close(mirror[order], boxes, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(flipped_logits[:, order], logits, atol=1e-4, rtol=1e-4)


def test_model_is_unchanged_and_shares_its_weights(model: SSD) -> None:
    averaged = flip_averaged(model)
    assert type(model) is SSD and "mirrored" not in dict(model.named_buffers())
    assert next(averaged.parameters()) is next(model.parameters())
    image = torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8)
    one, two = (InferenceEngine(m, dtype=torch.float32).predict([image])[0] for m in (model, averaged))
    assert not torch.equal(one["scores"], two["scores"])


def test_priors_that_are_not_symmetric_raise(model: SSD) -> None:
    other = build_model("ssd_tiny", 3, image_size=60, width=4, levels=2, steps=[8, 16])
    with pytest.raises(ValueError, match="the priors of this model are not symmetric"):
        flip_averaged(other)
