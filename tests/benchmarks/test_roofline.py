"""Tests the arithmetic that the benchmarks of detectors count."""

from __future__ import annotations

from torch import nn

from benchmarks.roofline import forward_flops
from tests.ssd.test_step_graph import tiny


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
