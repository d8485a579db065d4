"""Measures with torch's profiler how long the GPU is busy during a call; the rest of the time it waits for the host."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


def busy_seconds(call: Callable[[], Any], repeats: int = 3, rows: int = 0) -> float:
    """Returns the seconds per call in which a kernel or a copy ran; prints the `rows` slowest kernels."""
    from torch.profiler import ProfilerActivity, profile

    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as found:
        for _ in range(repeats):
            call()
        torch.cuda.synchronize()
    if rows:
        print(found.key_averages().table(sort_by="self_device_time_total", row_limit=rows, max_name_column_width=70))
    spans = sorted(
        (event.time_range.start, event.time_range.end)
        for event in found.events() or ()
        if event.device_type == torch.autograd.DeviceType.CUDA
    )
    return union_length(spans) / 1e6 / repeats


def union_length(spans: list[tuple[float, float]]) -> float:
    """Returns the length of the union of sorted spans: kernels of two streams may overlap."""
    length, until = 0.0, float("-inf")
    for start, end in spans:
        length += max(0.0, end - max(start, until))
        until = max(until, end)
    return length
