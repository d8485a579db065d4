"""Every op on the emulated kernels: the same bits under all schedules, and nothing for sanitizers and checks to find."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from tests.emu import emulated_ops
from tests.emu.build import ROOT, build_library, sanitizer_environment
from tests.emu.op_cases import CASES, Case, has_kernel
from tests.emu.schedules import same_under_all

OPS = sorted({op for op, _ in CASES})


def test_every_op_has_a_case() -> None:
    text = (ROOT / "ssd_ops" / "schemas.def").read_text()
    listed = {line[1:].split("(")[0] for line in text.splitlines() if line.startswith('"')}
    assert {op for op in listed if not op.startswith("grad_") and not op.endswith("_out")} == set(OPS)


@pytest.mark.parametrize(("op", "case"), CASES, ids=[f"{op}-{i}" for i, (op, _) in enumerate(CASES)])
def test_same_bits_under_all_schedules(op: str, case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    if not has_kernel(op):
        pytest.skip(f"{op} has no CUDA kernel yet")
    monkeypatch.setattr(torch.ops, "ssd_ops", emulated_ops())
    same_under_all(case)


@pytest.mark.parametrize("variant", ["sanitized", "checked"])
def test_nothing_found_by(variant: str) -> None:
    build_library(variant)
    environment = sanitizer_environment() if variant == "sanitized" else dict(os.environ)
    environment |= {"SSD_OPS_EMU_VARIANT": variant, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-W", "ignore", "-m", "tests.emu.op_cases"]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    ran = {line.split(":")[0] for line in done.stdout.splitlines() if line.endswith(": ran")}
    assert ran == {op for op in OPS if has_kernel(op)}
