"""L2Norm of SSD on VGG16: unit length over the channels, times a learned weight for each channel."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

_EPSILON = 1e-12  # of F.normalize


def l2_norm(x: Tensor, weight: Tensor) -> Tensor:
    """Returns x [B, C, H, W] with unit length over C, times weight [C].

    Half precision with autocast is computed in half precision on a GPU, with lengths and sums in float32; autocast itself
    would make a dozen float32 copies of x in a training step.
    """
    is_half = x.is_cuda and x.dtype in (torch.float16, torch.bfloat16)
    if is_half and x.requires_grad and torch.is_autocast_enabled("cuda") and not torch.compiler.is_compiling():
        with torch.autocast("cuda", enabled=False):
            result: Tensor = HalfL2Norm.apply(x, weight)
            return result
    return weight.view(1, -1, 1, 1) * F.normalize(x)


class HalfL2Norm(torch.autograd.Function):
    """`l2_norm` of x in half precision and weight in float32, with its gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        """Returns the result in half precision."""
        length = torch.linalg.vector_norm(x, dim=1, keepdim=True, dtype=torch.float32)
        inverse = length.clamp_min(_EPSILON).reciprocal()
        unit = torch.mul(x, inverse, out=torch.empty_like(x))  # one pass: float32 arithmetic, rounded when stored
        half_weight = weight.to(x.dtype)
        ctx.save_for_backward(unit, inverse, half_weight)
        return unit * half_weight.view(1, -1, 1, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the gradients of x and weight."""
        unit, inverse, weight = ctx.saved_tensors
        product = grad * unit
        of_weight = product.sum((0, 2, 3), dtype=torch.float32)
        along = torch.matmul(product.permute(0, 2, 3, 1), weight)[:, None]  # of the gradient of unit, [B, 1, H, W]
        of_unit = grad * weight.view(1, -1, 1, 1)
        across = torch.addcmul(of_unit, unit, along, value=-1)
        return torch.mul(across, inverse, out=across), of_weight
