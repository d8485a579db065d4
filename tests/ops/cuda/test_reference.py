"""The reference gives the same results on a GPU and on the CPU."""

from __future__ import annotations

import pytest
import torch

import ssd_ops
from tests.ops.cuda import calls
from tests.ops.cuda.calls import CALLS, DROP_INS, Call

# The ops whose first result involves no exp, log or atan, and no sum whose order depends on the device.
EXACT = {"box_iou", "generalized_box_iou", "distance_box_iou", "multiclass_nms", "soft_nms linear", "render_images"}
EXACT |= {call.name for call in DROP_INS}


@pytest.mark.cuda
@pytest.mark.parametrize("call", [*CALLS[1:], *DROP_INS], ids=lambda call: call.name)
def test_reference_agrees_across_devices(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    if not torch.cuda.is_available():
        pytest.skip("there is no GPU")
    monkeypatch.setattr(calls, "ssd_ops", ssd_ops.reference)
    expected, found = (call.run(*call.inputs(1, device)) for device in ("cpu", "cuda"))
    for i, (on_cpu, on_gpu) in enumerate(zip(expected, found, strict=True)):
        relative, absolute = 0.0, 0.0
        if call.name not in EXACT or i > 0:
            relative, absolute = 1e-4, 1e-5 * max(1.0, float(on_cpu.abs().max()))
        torch.testing.assert_close(on_gpu.cpu(), on_cpu, rtol=relative, atol=absolute, equal_nan=True)
