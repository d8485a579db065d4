"""Tests that SqueezeExcitation as matrix products equals torchvision's, which has convolutions."""

from __future__ import annotations

import copy

import torch
from torch import nn

from ssd.models.layers import SqueezeExcitation
from ssd.models.mobilenet_v3 import LinearSqueezeExcitation


def test_linear_squeeze_excitation_equals_convolutions_and_their_gradients() -> None:
    torch.manual_seed(0)
    layer = SqueezeExcitation(16, 8, scale_activation=nn.Hardsigmoid)
    linear = copy.deepcopy(layer)
    linear.__class__ = LinearSqueezeExcitation
    inputs = [torch.randn(2, 16, 5, 6).contiguous(memory_format=torch.channels_last).requires_grad_()]
    inputs.append(inputs[0].detach().clone().requires_grad_())
    results = [net(x) for net, x in zip((layer, linear), inputs, strict=True)]
    for result in results:
        (result * torch.arange(result.numel()).view(result.shape).cos()).sum().backward()
    torch.testing.assert_close(results[1], results[0], rtol=1e-5, atol=1e-6)
    pairs = zip([inputs[0], *layer.parameters()], [inputs[1], *linear.parameters()], strict=True)
    for expected, found in pairs:
        torch.testing.assert_close(found.grad, expected.grad, rtol=1e-4, atol=1e-5)
    assert torch.equal(linear.eval()(inputs[0]), layer.eval()(inputs[0]))
