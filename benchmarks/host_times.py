"""Host time of a call of every op, in a second: without gradients, forward with gradients, and backward alone.

python benchmarks/host_times.py [--device cuda]

bench_overhead.py times the same calls against other implementations, after checking their results.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial

import _path  # noqa: F401
import torch

import ssd_ops
from benchmarks.bench_overhead import as_tuple, small_calls

_CALLS, _REPEATS = 100, 3


def main() -> None:
    """Prints the shortest mean of a hundred calls of three for every op."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(parser.parse_args().device)
    torch.set_num_threads(1)
    for name, (call, inputs, leaves) in small_calls().items():
        tensors = [tensor.to(device).requires_grad_(i < leaves) for i, tensor in enumerate(inputs)]
        run = partial(call, ssd_ops, *tensors)
        with torch.no_grad():
            text = f"{name}: no_grad {_microseconds(run, device):.1f}"
        if leaves:
            results = as_tuple(run())
            ones = [torch.ones_like(result) for result in results]
            back = partial(torch.autograd.grad, results, tensors[:leaves], ones, retain_graph=True)
            text += f", forward {_microseconds(run, device):.1f}, backward {_microseconds(back, device):.1f}"
        print(f"{text} us", flush=True)


def _microseconds(call: Callable[[], object], device: torch.device) -> float:
    best = float("inf")
    for repeat in range(1 + _REPEATS):  # the first one warms up
        if device.type == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(_CALLS):
            call()
        if repeat:
            best = min(best, (time.perf_counter() - start) / _CALLS)
    return best * 1e6


if __name__ == "__main__":
    main()
