"""Outputs of each level in place of concatenated rows: the same losses, gradients and detections, bit for bit."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ssd.inference.engine import InferenceEngine
from ssd.models import SSD, build_model

IMAGES = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
GROUND_TRUTH = (
    torch.tensor([[0.1, 0.1, 0.5, 0.6], [0.4, 0.3, 0.9, 0.9], [0.0, 0.2, 0.3, 0.4]]),
    torch.tensor([1, 2, 1]),
    torch.tensor([0, 2, 3]),
)


def tiny(**options: object) -> SSD:
    torch.manual_seed(0)
    return build_model("ssd_tiny", 3, image_size=64, **options)


def losses_and_gradients(model: SSD, images: Tensor, by_levels: bool, dtype: torch.dtype) -> list[Tensor]:
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        outputs = (model.forward_levels if by_levels else model.forward_raw)(model.normalize(images))
    assert isinstance(outputs[0], list) == by_levels
    losses = model.criterion(*outputs, model.priors, *GROUND_TRUTH)
    total = losses["loc"] + losses["cls"]
    return [*losses.values(), *torch.autograd.grad(total, list(model.head.parameters()))]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_loss_of_level_outputs_equals_concatenated(layout: torch.memory_format, dtype: torch.dtype) -> None:
    model = tiny().to(memory_format=layout)
    images = IMAGES.contiguous(memory_format=layout)
    found, expected = (losses_and_gradients(model, images, by_levels, dtype) for by_levels in (True, False))
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("rules", [{"box_loss": "giou"}, {"class_target": "iou"}])
def test_iou_losses_of_level_outputs_equal_concatenated(rules: dict[str, str]) -> None:
    model = tiny(**rules)
    found, expected = (losses_and_gradients(model, IMAGES, by_levels, torch.float32) for by_levels in (True, False))
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("scores", ["softmax", "sigmoid"])
def test_detections_of_level_outputs_equal_concatenated(scores: str) -> None:
    model = tiny(scores=scores, score_threshold=0.2).eval()
    with torch.no_grad():
        x = model.normalize(IMAGES)
        for one, other in zip(model.detect(*model.forward_levels(x)), model.detect(*model.forward_raw(x)), strict=True):
            assert torch.equal(one, other)


def test_engine_on_level_outputs_equals_concatenated() -> None:
    engine = InferenceEngine(tiny(score_threshold=0.2).eval())
    images = (IMAGES * 255).to(torch.uint8)
    for one, other in zip(engine.detect(images), engine.model.detect(*engine.outputs(images)), strict=True):
        assert torch.equal(one, other)
