"""Tests frozen BatchNorm folded into its convolution."""

from __future__ import annotations

import copy

import torch
from torch import nn

from ssd.models.frozen import FoldedConv2d, FrozenBatchNorm2d, freeze_batch_norm


def _layers() -> nn.Sequential:
    torch.manual_seed(0)
    layers = nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU6(), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8)
    )
    for layer in layers:
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.5, 2)
            nn.init.normal_(layer.bias)
            layer.running_mean.normal_()
            layer.running_var.uniform_(0.5, 2)
    return layers


def test_folding_keeps_values_gradients_and_names() -> None:
    plain, frozen = _layers().eval(), _layers()
    freeze_batch_norm(frozen)
    frozen.train()
    x = torch.randn(2, 3, 9, 9)
    torch.testing.assert_close(frozen(x), plain(x))
    plain(x).square().sum().backward()
    frozen(x).square().sum().backward()
    torch.testing.assert_close(frozen[0].weight.grad, plain[0].weight.grad, rtol=1e-4, atol=1e-3)
    assert list(frozen.state_dict()) == list(plain.state_dict())
    assert frozen[1].weight.grad is None and not frozen[1].weight.requires_grad


def test_folding_skips_convolution_with_bias() -> None:
    layers = _layers()
    freeze_batch_norm(layers)
    assert isinstance(layers[0], FoldedConv2d) and layers[1].folded
    assert not isinstance(layers[3], FoldedConv2d)
    assert isinstance(layers[4], FrozenBatchNorm2d) and not layers[4].folded


def test_copy_of_folded_model_uses_its_own_statistics() -> None:
    layers = _layers()
    freeze_batch_norm(layers)
    other = copy.deepcopy(layers)
    other[1].weight.data.zero_()
    x = torch.randn(1, 3, 9, 9)
    assert (other[0](x) == other[1].bias[:, None, None]).all()
    assert not torch.equal(layers[0](x), other[0](x))
