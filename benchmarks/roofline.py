"""What part of a GPU's matrix units a detector uses: its arithmetic against the rate of a large matrix product."""

from __future__ import annotations

import copy
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.machine import peak_flops
from ssd.models import SSD

_counted: WeakKeyDictionary[SSD, int] = WeakKeyDictionary()  # counting takes longer than most calls
TRAINING = 3  # passes of a training step: forward, gradients of the inputs, gradients of the weights


def forward_flops(model: SSD) -> int:
    """Returns the floating-point operations for one image: two for each multiplication of the convolutions."""
    if model in _counted:
        return _counted[model]
    own = copy.deepcopy(model).eval().to("meta")
    side = model.image_size
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        own.forward_levels(torch.empty(1, 3, side, side, device="meta"))
    _counted[model] = counter.get_total_flops()
    return _counted[model]


def rate_of(model: SSD, images: int, seconds: float, passes: int = 1) -> dict[str, float | None]:
    """Returns the rate of `passes` forward passes of a batch in `seconds`, and what part it is of the GPU's peak."""
    rate, peak = passes * images * forward_flops(model) / seconds, peak_flops(model.priors.device)
    return {"flops_per_second": rate, "fraction_of_peak": None if peak is None else rate / peak}


def rate_shown(row: dict[str, Any]) -> str:
    """Returns the numbers of `rate_of` as text."""
    part = row["fraction_of_peak"]
    share = "" if part is None else f" ({part:.0%} of a bfloat16 matrix product)"
    return f"{row['flops_per_second'] / 1e12:.1f} TFLOP/s{share}"
