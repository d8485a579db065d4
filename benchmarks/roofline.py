"""What part of a GPU's matrix units a detector uses: its arithmetic against the rate of a large matrix product."""

from __future__ import annotations

import copy
import time
from functools import cache

import torch
from torch.utils.flop_counter import FlopCounterMode

from ssd.models import SSD

_SIDE = 8192  # of the matrices
TRAINING = 3  # passes of a training step: forward, gradients of the inputs, gradients of the weights


def forward_flops(model: SSD) -> int:
    """Returns the floating-point operations for one image: two for each multiplication of the convolutions."""
    own = copy.deepcopy(model).eval().to("meta")
    side = model.image_size
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        own.forward_levels(torch.empty(1, 3, side, side, device="meta"))
    return counter.get_total_flops()


@cache
def peak_flops() -> float:
    """Returns the operations per second of a bfloat16 matrix product of random numbers on the current GPU."""
    a, b = (torch.randn(_SIDE, _SIDE, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    best = float("inf")
    for _ in range(5):
        torch.cuda.synchronize()
        start = time.perf_counter()
        torch.mm(a, b)
        torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return 2 * _SIDE**3 / best


def roofline_share(model: SSD, images: int, seconds: float, passes: int = 1) -> str:
    """Returns a text about the rate of `passes` forward passes of a batch in `seconds`, and its share of the peak."""
    rate = passes * images * forward_flops(model) / seconds
    return f"{rate / 1e12:.1f} TFLOP/s ({rate / peak_flops():.0%} of a bfloat16 matrix product)"
