"""Tests that packed convolutions on a CPU equal those that they replace, up to rounding."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ssd.inference import engine as engine_module
from ssd.inference.engine import InferenceEngine
from ssd.models.folded import folded
from ssd.models.layers import Conv2dNormActivation, SqueezeExcitation
from ssd.models.packed import PackedConv2d, can_pack, pack_convolutions
from ssd.models.same_padding import SameConv2d
from tests.ssd.test_inference_engine import batch, tiny

pytestmark = pytest.mark.skipif(not can_pack(torch.float32), reason="this torch has no packed convolutions")


def network() -> nn.Sequential:
    """Returns a network of all kinds of layers that are packed, and some that are not."""
    torch.manual_seed(0)
    layer: Any = Conv2dNormActivation
    return nn.Sequential(
        layer(3, 16, activation_layer=nn.Hardswish),
        layer(16, 16, groups=16, activation_layer=nn.ReLU6),
        SqueezeExcitation(16, 8, scale_activation=nn.Hardsigmoid),
        SameConv2d(16, 24, 3, 2),
        nn.SiLU(),
        nn.Conv2d(24, 8, 1, bias=False),
        nn.Sigmoid(),
        nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect"),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, dilation=2),
    ).eval()


def outputs(net: nn.Module, count: int) -> Tensor:
    x = torch.randn(count, 3, 17, 18, generator=torch.Generator().manual_seed(count))
    with torch.no_grad():
        return net(x.contiguous(memory_format=torch.channels_last))


def test_packed_convolutions_equal_plain_ones_for_every_batch_size() -> None:
    packed = network()
    pack_convolutions(packed)
    assert sum(isinstance(layer, PackedConv2d) for layer in packed.modules()) == 7
    assert [type(layer) for layer in packed.modules() if isinstance(layer, (nn.Conv2d, nn.SiLU, nn.Sigmoid))] == [
        nn.Conv2d  # with another padding
    ]
    for count in (2, 1, 0, 3, 4, 5, 2):  # more than there are layouts
        torch.testing.assert_close(outputs(packed, count), outputs(network(), count), rtol=1e-4, atol=1e-5)


def test_packed_bfloat16_detector_equals_float32() -> None:
    if not can_pack(torch.bfloat16):
        pytest.skip("this CPU has no bfloat16")
    model = tiny()
    engines = [InferenceEngine(model, dtype=dtype) for dtype in (torch.bfloat16, torch.float32)]
    for found, expected in zip(*(engine.outputs(batch(2)) for engine in engines), strict=True):
        torch.testing.assert_close(found.float(), expected, rtol=0, atol=0.05 * expected.abs().max().item())


def test_engine_packs_convolutions_and_splits_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny()
    monkeypatch.setattr(engine_module, "_PART", 2)
    engine = InferenceEngine(model, dtype=torch.float32)
    assert not any(isinstance(layer, nn.Conv2d) for layer in engine._net.modules())
    assert not any(isinstance(layer, nn.ReLU) for layer in engine._net.modules())
    images = batch(5)
    net = folded(model)
    with torch.no_grad():
        expected = net.forward_raw(net.normalize(images))
    for found, wanted in zip(engine.outputs(images), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    detections, wanted = engine.detect(images), net.detect(*expected)
    assert torch.equal(detections.counts, wanted.counts)
    torch.testing.assert_close(detections.scores, wanted.scores, rtol=0, atol=1e-4)
    assert engine.detect(images[:0]).scores.shape == (0, wanted.scores.shape[1])
