"""Tests that a training step on a GPU does not synchronize."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice

import pytest
import torch

from ssd.data import PackedImages, build_loader, open_dataset
from ssd.engine.setup import make_model, open_datasets
from ssd.engine.step import amp_dtype, make_state, train_step
from ssd.transforms import build_transforms
from tests.ops.cuda.test_streams import no_synchronization
from tests.ssd.test_training import SMALL

pytestmark = pytest.mark.cuda


@pytest.mark.parametrize("amp", [False, True])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("deferred", [False, True])
def test_training_step_on_gpu_does_not_synchronize(amp: bool, channels_last: bool, deferred: bool) -> None:
    if not torch.cuda.is_available():
        pytest.skip("there is no GPU")
    device = torch.device("cuda")
    if amp and amp_dtype(device) == torch.float16:
        pytest.skip("the loss scaling of float16 reads from the device whether gradients are finite")
    config = replace(SMALL, dataset="shapes", device="cuda", amp=amp, channels_last=channels_last)
    train_set, _ = open_datasets(config)
    model = make_model(config, train_set).to(device).train()
    transforms = build_transforms("ssd", model.image_size, train=True, deferred=deferred)
    loader = build_loader(train_set, transforms, config.batch_size, train=True, workers=0, seed=0)
    batches = list(islice(loader, 3))  # pinned
    state = make_state(config, model, len(loader))
    train_step(config, state, batches[0].to(device))  # the first chooses algorithms and allocates
    with no_synchronization():
        losses = [train_step(config, state, batch.to(device, non_blocking=True)) for batch in batches[1:]]
    assert all(bool(loss.isfinite()) for step in losses for loss in step.values())


def test_gpu_rendering_equals_cpu() -> None:
    if not torch.cuda.is_available():
        pytest.skip("there is no GPU")
    transforms = build_transforms("ssd", 64, train=True, deferred=True)
    dataset = open_dataset("shapes", size=8, image_size=100)
    for batch in build_loader(dataset, transforms, 4, train=True):
        assert isinstance(batch.images, PackedImages) and batch.images.pixels.is_pinned()
        there = batch.to("cuda", non_blocking=True)
        assert torch.equal(there.images.render().cpu(), batch.images.render())
