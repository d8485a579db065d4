"""On a GPU the host never waits for the device, neither in a training step nor in inference up to padded detections."""

from __future__ import annotations

import pytest
import torch

from ssd.models import SSD, build_model

pytestmark = [pytest.mark.cuda, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]


@pytest.fixture
def model() -> SSD:
    torch.manual_seed(0)
    return build_model("ssd_tiny", 4).cuda()


def test_training_step_and_detection(model: SSD) -> None:
    images = torch.rand(2, 3, model.image_size, model.image_size, device="cuda")
    boxes = torch.tensor([[0.1, 0.1, 0.5, 0.6], [0.3, 0.2, 0.9, 0.8], [0.0, 0.0, 0.2, 0.3]], device="cuda")
    labels, offsets = torch.tensor([1, 2, 3], device="cuda"), torch.tensor([0, 2, 3], device="cuda")
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)

    def step() -> None:
        losses = model.criterion(*model.forward_raw(model.normalize(images)), model.priors, boxes, labels, offsets)
        sum(losses.values()).backward()
        optimizer.step()
        optimizer.zero_grad()

    step()  # the first one loads and allocates
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
        with torch.no_grad():
            detections = model.detect(*model.forward_raw(model.normalize(images)))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert detections.boxes.isfinite().all()
