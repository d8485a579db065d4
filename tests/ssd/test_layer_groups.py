"""Tests that steps with layers in groups are bit-equal to those in which torch casts and counts for each layer."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from ssd.engine.layer_groups import LayerGroups
from ssd.engine.step import State, make_state, train_step
from ssd.models import SSD, build_model
from tests.ssd.test_step_graph import CONFIG, batch_of


def depthwise() -> SSD:
    torch.manual_seed(0)
    return build_model("ssdlite320_mobilenet_v3_large", 4, image_size=64, reduced_tail=True, extra_channels=(16,))


def tensors_of(state: State) -> dict[str, torch.Tensor]:
    momentum = {str(i): v["momentum_buffer"] for i, v in state.optimizer.state_dict()["state"].items()}
    return {**state.model.state_dict(), **momentum}


AMP = {"amp": True, "channels_last": True, "accumulate": 2}


@pytest.mark.parametrize(
    "device, options", [("cpu", AMP), ("cpu", {}), pytest.param("cuda", AMP, marks=pytest.mark.cuda)]
)
def test_steps_in_groups_are_bit_equal(device: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)  # other algorithms add in any order
    config = replace(CONFIG, opt="sgd", cuda_graph="off", **options)
    states = []
    for grouped in (True, False):
        model = depthwise().to(device).train()
        state = make_state(config, model.to(memory_format=torch.channels_last) if config.channels_last else model, 4)
        if not grouped:
            state.groups = LayerGroups()
        for seed in range(2):
            train_step(config, state, batch_of(seed, (3, 0, 5, 1)).to(device))
        states.append(tensors_of(state))
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    counts = [value for name, value in states[0].items() if name.endswith("num_batches_tracked")]
    assert {int(count) for count in counts} == {2 * config.accumulate}


def test_layers_have_their_own_tensors_after_an_error() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    before = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    with pytest.raises(RuntimeError, match="stopped"), LayerGroups(model, torch.bfloat16).applied():
        assert model[0].weight.dtype == torch.bfloat16 and model[1].num_batches_tracked is None
        raise RuntimeError("stopped")
    after = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    assert after.keys() == before.keys() and all(after[name] is before[name] for name in before)
    assert int(model[1].num_batches_tracked) == 0
