"""Tests that convolutions fused with their ReLU train as separate layers do."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssd.engine.fused_relu import FusedReLU


def network() -> nn.Sequential:
    torch.manual_seed(0)
    block = nn.Sequential(nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU(inplace=True), nn.Conv2d(8, 8, 3, 1, 2, 2), nn.ReLU())
    layers = (nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(inplace=True), block, nn.Conv2d(8, 4, 3))
    return nn.Sequential(*layers).to(memory_format=torch.channels_last)


def convolution_relu(x: Tensor, weight: Tensor, bias: Tensor, *options: Any) -> Tensor:
    return F.relu(F.conv2d(x, weight, bias, *options))


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def test_gradients_of_fused_layers(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if device == "cpu":
        monkeypatch.setattr(torch, "cudnn_convolution_relu", convolution_relu)
    images = torch.rand(2, 3, 20, 20, generator=torch.Generator().manual_seed(0)).to(device)
    found = []
    for fused in (True, False):
        model = network().to(device)
        way = FusedReLU(model).applied() if fused else contextlib.nullcontext()
        with torch.autocast(device, torch.bfloat16), way:
            result = model(images.contiguous(memory_format=torch.channels_last))
        result.float().square().mean().backward()
        found.append([result.float(), *(weight.grad for weight in model.parameters())])
        assert type(model[0]) is nn.Conv2d and type(model[1]) is nn.ReLU and len(FusedReLU(model)._pairs) == 3
    for mine, other in zip(*found, strict=True):
        tolerance = (
            {"rtol": 0, "atol": 0} if device == "cpu" else {"rtol": 0.05, "atol": 0.02 * float(other.abs().max())}
        )
        torch.testing.assert_close(mine, other, **tolerance)


@pytest.mark.cuda
@pytest.mark.parametrize("channels, side, dilation", [(3, 60, 1), (64, 38, 1), (512, 19, 6)])
def test_fused_kernel_reads_no_uninitialized_memory(channels: int, side: int, dilation: int) -> None:
    """cuDNN's kernel also adds a tensor, for which torch passes the uninitialized result, times 0: NaN stays NaN."""
    generator = torch.Generator().manual_seed(0)
    layout = {"dtype": torch.bfloat16, "memory_format": torch.channels_last}
    x = torch.rand(4, channels, side, side, generator=generator).cuda().to(**layout)
    weight = torch.randn(64, channels, 3, 3, generator=generator).cuda().to(**layout)
    bias = torch.zeros(64, device="cuda", dtype=torch.bfloat16)
    for _ in range(3):
        poison = torch.full((4, 64, side, side), torch.nan, device="cuda", dtype=torch.bfloat16)
        address = poison.data_ptr()
        del poison
        result = torch.cudnn_convolution_relu(x, weight, bias, (1, 1), (dilation,) * 2, (dilation,) * 2, 1)
        assert result.data_ptr() == address, "the memory was not used again"
        assert bool(result.isfinite().all())
