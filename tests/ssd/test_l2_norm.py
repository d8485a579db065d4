"""Tests L2Norm in half precision against autograd of the float32 formula."""

from __future__ import annotations

import pytest
import torch

from ssd.models.l2_norm import HalfL2Norm, l2_norm


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def test_half_precision_l2_norm_and_its_gradients(device: str) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 16, 5, 4, generator=generator).relu().to(device, torch.bfloat16)
    x[0, :, 0, 0] = 0  # a cell without length
    x = x.contiguous(memory_format=torch.channels_last)
    grad = torch.randn(2, 16, 5, 4, generator=generator).to(x)
    grad = grad.contiguous(memory_format=torch.channels_last)
    weight = (torch.rand(16, generator=generator) + 19.5).to(device)
    found = []
    for exact in (False, True):
        leaves = (x.float() if exact else x).clone().requires_grad_(), weight.clone().requires_grad_()
        result = l2_norm(*leaves) if exact else HalfL2Norm.apply(*leaves)
        assert result.dtype == (torch.float32 if exact else torch.bfloat16)
        found.append([result, *torch.autograd.grad(result, leaves, grad.to(result.dtype))])
    for mine, expected in zip(*found, strict=True):
        assert mine.is_contiguous(memory_format=torch.channels_last) or mine.dim() == 1
        inside = torch.ones_like(expected, dtype=torch.bool)
        if expected.dim() == 4:
            inside[0, :, 0, 0] = False  # where the formula's gradient is that of a division by 1e-12
        target = expected.detach()[inside]
        torch.testing.assert_close(mine.float()[inside], target, rtol=0.02, atol=0.02 * float(target.abs().max()))


@pytest.mark.cuda
def test_autocast_uses_half_precision() -> None:
    x = torch.rand(1, 8, 3, 3, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    with torch.autocast("cuda", torch.bfloat16):
        assert l2_norm(x, torch.ones(8, device="cuda")).dtype == torch.bfloat16
