"""Every op on the emulated kernels returns the same bits under all schedules; for sanitizers, see tests/sanitizers.py."""

from __future__ import annotations

import pytest
import torch

from tests.emu import emulated_ops
from tests.emu.build import ROOT
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
