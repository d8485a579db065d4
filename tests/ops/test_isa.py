"""Every op gives the same bits on every instruction set that it was compiled for."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
import torch

from tests.processes import run_python

SETS = ("baseline", "avx2", "avx512")
# Prints a digest of the results of each op; run once for each instruction set, which is chosen when the library loads.
SCRIPT = """
import hashlib, torch
import ssd_ops
from tests.ops.samples import sample_arguments
for dtype in (torch.float32, torch.float64, torch.bfloat16):
    for name, arguments in sample_arguments(dtype).items():
        result = getattr(torch.ops.ssd_ops, name)(*arguments)
        parts = arguments[2:] if result is None else result if isinstance(result, (tuple, list)) else [result]
        tensors = [tensor for part in parts for tensor in (part if isinstance(part, list) else [part])]
        digest = hashlib.sha256(b"".join(t.contiguous().flatten().view(torch.uint8).numpy().tobytes() for t in tensors))
        print(name, dtype, digest.hexdigest())
"""


def run(script: str, isa: str) -> subprocess.CompletedProcess[str]:
    return run_python("-c", script, folder=Path(__file__).parents[2], environment={**os.environ, "SSD_OPS_ISA": isa})


def test_instruction_sets_give_the_same_bits() -> None:
    if not torch._C._dispatch_has_kernel_for_dispatch_key("ssd_ops::box_iou", "CPU"):
        pytest.skip("no compiled library: ssd_ops runs on the reference")
    outputs = {}
    for name in SETS:  # a set that the machine lacks falls back to the best that it has
        done = run(SCRIPT, name)
        assert done.returncode == 0, done.stderr
        outputs[name] = done.stdout.splitlines()
    assert len(outputs["baseline"]) == 3 * 22
    for name in SETS[1:]:
        assert outputs[name] == outputs["baseline"], name
