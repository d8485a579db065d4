"""Host time of a call of every op, in a second: without gradients, forward with gradients, and backward alone.

python benchmarks/host_times.py [--device cuda] [--json FILE]

bench_overhead.py times the same calls against other implementations, after checking their results.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import _path  # noqa: F401
import torch

import ssd_ops
from benchmarks.bench_overhead import as_tuple, small_calls
from benchmarks.machine import describe
from benchmarks.saving import saving

_CALLS, _REPEATS = 100, 3


def main() -> None:
    """Prints the shortest mean of a hundred calls of three for every op."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", type=Path, help="write machine, command and all rows to this file")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    with saving(arguments.json, {"machine": describe(device, 1), "rows": rows}) as measuring:
        for name, (call, inputs, leaves) in small_calls().items():
            with measuring(name):
                tensors = [tensor.to(device).requires_grad_(i < leaves) for i, tensor in enumerate(inputs)]
                rows.append({"name": name, **_times(partial(call, ssd_ops, *tensors), tensors[:leaves], device)})
                times = ", ".join(f"{k} {v * 1e6:.1f}" for k, v in rows[-1].items() if k != "name")
                print(f"{name}: {times} us", flush=True)


def _times(run: Callable[[], Any], leaves: list[torch.Tensor], device: torch.device) -> dict[str, float]:
    """Returns the seconds of a call, and with `leaves` of its forward pass with gradients and of its backward pass."""
    with torch.no_grad():
        found = {"no_grad": _seconds(run, device)}
    if leaves:
        results = as_tuple(run())
        ones = [torch.ones_like(result) for result in results]
        back = partial(torch.autograd.grad, results, leaves, ones, retain_graph=True)
        found |= {"forward": _seconds(run, device), "backward": _seconds(back, device)}
    return found


def _seconds(call: Callable[[], object], device: torch.device) -> float:
    best = float("inf")
    for repeat in range(1 + _REPEATS):  # the first one warms up
        if device.type == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(_CALLS):
            call()
        if repeat:
            best = min(best, (time.perf_counter() - start) / _CALLS)
    return best


if __name__ == "__main__":
    main()
