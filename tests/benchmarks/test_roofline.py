"""Tests the arithmetic that the benchmarks of detectors count, and its share of a GPU's peak, which is simulated."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from benchmarks import harness, roofline
from benchmarks.machine import peak_flops
from benchmarks.roofline import forward_flops, rate_of, rate_shown
from benchmarks.table import table
from tests.ssd.test_step_graph import tiny

CPU = torch.device("cpu")


def test_operations_of_a_forward_pass() -> None:
    model = tiny().eval()
    expected = 0

    def count(layer: nn.Module, inputs: object, output: object) -> None:
        nonlocal expected
        assert isinstance(layer, nn.Conv2d)
        expected += 2 * layer.weight[0].numel() * output.numel()  # type: ignore[attr-defined]

    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(count)
    found = forward_flops(model)  # its copy has the hooks, too
    assert found == expected > 0


def test_share_of_the_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny()
    rate = 3 * 4 * forward_flops(model) / 0.5
    found = rate_of(model, 4, 0.5, 3)
    assert peak_flops(CPU) is None and found == {"flops_per_second": rate, "fraction_of_peak": None}
    assert rate_shown(found) == f"{rate / 1e12:.1f} TFLOP/s"
    monkeypatch.setattr(roofline, "peak_flops", lambda device: 4 * rate)
    assert rate_shown(rate_of(model, 4, 0.5, 3)).endswith("TFLOP/s (25% of a bfloat16 matrix product)")


@pytest.mark.parametrize("peak", [None, 1e12])
def test_table_has_the_share_of_the_peak_of_a_gpu(monkeypatch: pytest.MonkeyPatch, peak: float | None) -> None:
    monkeypatch.setattr(harness, "peak_flops", lambda device: peak)
    case = harness.Case("x", lambda g, d: (1,), {"reference": lambda x: x}, lambda a, b: None, flops=lambda: 1e5)
    timing = harness.run_case(case, CPU, 0.001, 1.0)["reference"]
    assert timing.fraction_of_peak == (None if peak is None else pytest.approx(1e-7 / timing.median))
    assert ("of peak" in table("x", {"reference": timing})) == (peak is not None)


def test_lines_of_inference_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    times: Any = importlib.import_module("benchmarks.inference_times")
    row = times._time(tiny(), 2, 0.0, lambda: None, 1)
    assert "busy" not in times._line({"name": "tiny B2 list", **row})
    on_gpu = SimpleNamespace(priors=SimpleNamespace(device=torch.device("cuda")))
    monkeypatch.setattr(times, "busy_seconds", lambda call, repeats: 0.4)
    monkeypatch.setattr(times, "rate_of", lambda *_: {"flops_per_second": 1e12, "fraction_of_peak": None})
    row = times._time(on_gpu, 2, 0.0, lambda: None, 8)
    assert row["busy_seconds"] == pytest.approx(0.05)
    text = times._line({"name": "tiny B2 batches", **row, "seconds": 0.1})
    assert text.endswith(", GPU busy 50.00 ms (50%), 1.0 TFLOP/s")
