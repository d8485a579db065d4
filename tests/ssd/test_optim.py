"""Tests optimizers and schedules used by the recipes of other systems."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from ssd.common.errors import ConfigError, DownloadError
from ssd.config import TrainConfig
from ssd.engine import plain_optim
from ssd.engine.epochs import epochs_of, is_evaluated
from ssd.engine.optim import build_optimizer, build_schedule, freeze
from ssd.engine.setup import make_model
from ssd.engine.step import make_state
from ssd.models import SSD, build_model

PLAIN = TrainConfig(opt="sgd", lr=1.0, warmup_iters=0, ema_decay=0.0, weight_decay=0.5)


def lite() -> SSD:
    return build_model("ssdlite320_mobilenet_v2", 3)


def settings_of(config: TrainConfig, model: nn.Module, world_size: int = 1) -> dict[str, tuple[float, float]]:
    """name -> (learning rate, weight decay)."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    groups = build_optimizer(config, model, world_size).param_groups
    return {names[p]: (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}


def test_param_groups_have_own_learning_rates() -> None:
    found = settings_of(replace(PLAIN, backbone_lr_factor=0.1, extra_lr_factor=0.5), lite())
    assert found["backbone.features.0.0.weight"] == (0.1, 0.5)
    extra = [rate for name, (rate, _) in found.items() if name.startswith("backbone.extra.")]
    heads = [rate for name, (rate, _) in found.items() if name.startswith("head.")]
    assert set(extra) == {0.5} and set(heads) == {1.0} and extra and heads


def test_biases_and_norms_have_own_weight_decay() -> None:
    model = nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1))
    caffe = replace(PLAIN, bias_lr_factor=2.0, bias_weight_decay=0.0, norm_weight_decay=None)
    assert settings_of(caffe, model) == {
        "0.weight": (1.0, 0.5),
        "0.bias": (2.0, 0.0),
        "1.weight": (1.0, 0.5),
        "1.bias": (1.0, 0.5),
    }
    nvidia = replace(PLAIN, bias_weight_decay=0.0, norm_weight_decay=0.0)
    assert {name for name, (_, decay) in settings_of(nvidia, model).items() if decay} == {"0.weight"}


def test_learning_rate_scales_with_images_per_step() -> None:
    config = replace(PLAIN, lr=0.0026, batch_size=16, lr_batch_size=32)
    model = nn.Linear(1, 1)
    assert settings_of(config, model, world_size=8)["weight"][0] == pytest.approx(0.0026 * 4)


@pytest.mark.parametrize(("kind", "learning"), [("features", ("backbone.extra.", "head.")), ("backbone", ("head.",))])
def test_freezing_backbone_layers(kind: str, learning: tuple[str, ...]) -> None:
    model = lite()
    freeze(replace(PLAIN, freeze=kind), model)
    names = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert names and all(name.startswith(learning) for name in names)
    assert all(any(name.startswith(part) for name in names) for part in learning)


def test_model_without_trainable_weights_raises() -> None:
    with pytest.raises(ConfigError, match="there are no trainable parameters"):
        build_optimizer(PLAIN, nn.Linear(1, 1).requires_grad_(False))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"lr_scheduler": "steplr", "lr_step_size": 1, "lr_gamma": 0.5}, [1, 1, 0.5, 0.5, 0.25, 0.25]),
        ({"lr_scheduler": "polynomial", "lr_power": 2.0}, [(1 - i / 6) ** 2 for i in range(6)]),
        ({"lr_scheduler": "multisteplr", "iterations": 6, "lr_steps": [3, 5]}, [1, 1, 1, 0.1, 0.1, 0.01]),
        (  # lufficc: from a third; NVIDIA: from nothing
            {"lr_scheduler": "multisteplr", "lr_steps": [9], "warmup_iters": 2, "warmup_factor": 1 / 3},
            [1 / 3, 2 / 3, 1, 1, 1, 1],
        ),
        (
            {"lr_scheduler": "multisteplr", "lr_steps": [9], "warmup_iters": 4, "warmup_factor": 0.0},
            [0, 0.25, 0.5, 0.75, 1, 1],
        ),
    ],
)
def test_schedules_of_other_systems(changes: dict[str, Any], expected: list[float]) -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = build_schedule(replace(PLAIN, epochs=3, **changes), optimizer, steps_per_epoch=2)
    rates = []
    for _ in range(6):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates == pytest.approx(expected)


def test_skipped_epochs_count_for_the_schedule() -> None:
    model = build_model("ssd_tiny", 3, image_size=64, width=4, levels=2)
    state = make_state(replace(PLAIN, lr_scheduler="multisteplr", lr_steps=[2, 4]), model, steps_per_epoch=10)
    state.skip_to(3, steps_per_epoch=10)
    assert (state.epoch, state.step) == (3, 30)
    assert state.optimizer.param_groups[0]["lr"] == pytest.approx(0.1)
    state.optimizer.step()
    for _ in range(10):
        state.schedule.step()
    assert state.optimizer.param_groups[0]["lr"] == pytest.approx(0.01)


def test_epochs_from_iterations_and_evaluations() -> None:
    assert epochs_of(replace(PLAIN, iterations=120000), 517) == 233  # 16551 images of VOC 07+12, 32 a step
    assert epochs_of(replace(PLAIN, epochs=7), 517) == 7
    chosen = replace(PLAIN, eval_epochs=[2, 3])
    assert [e for e in range(1, 7) if is_evaluated(chosen, e, 6)] == [2, 3, 6]
    assert [e for e in range(1, 7) if is_evaluated(replace(PLAIN, eval_every=4), e, 6)] == [4, 6]


def test_failed_weight_download_error_message(monkeypatch: pytest.MonkeyPatch) -> None:
    import ssd.engine.setup
    from ssd.data import open_dataset

    def offline(*_: Any, **__: Any) -> None:
        raise DownloadError("torchvision could not download it")

    monkeypatch.setattr(ssd.engine.setup, "build_model", offline)
    with pytest.raises(ConfigError, match="could not download"):
        make_model(PLAIN, open_dataset("shapes", size=2, image_size=64))


@pytest.mark.parametrize("opt", ["sgd", "sgd_nesterov", "adamw"])
def test_fused_steps_equal_plain_ones_in_channels_last(opt: str) -> None:
    weights = []
    for fused in (True, False):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 1))
        net = net.to(memory_format=torch.channels_last)
        optimizer = build_optimizer(TrainConfig(opt=opt, lr=0.01), net)
        assert optimizer.param_groups[0]["fused"]
        for group in optimizer.param_groups:
            group["fused"] = fused
        for step in range(3):
            optimizer.zero_grad(set_to_none=True)
            x = torch.randn(2, 3, 9, 9, generator=torch.Generator().manual_seed(step))
            net(x.contiguous(memory_format=torch.channels_last)).square().sum().backward()
            optimizer.step()
        weights.append([weight.detach() for weight in net.parameters()])
    for found, expected in zip(*weights, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("own", "base"), [(plain_optim.SGD, torch.optim.SGD), (plain_optim.AdamW, torch.optim.AdamW)])
def test_optimizers_without_wrappers_equal_torchs(own: Any, base: Any) -> None:
    """Steps, state, hooks and schedules; and a step computes no gradients of its own."""
    options = {"lr": 0.1, "fused": True, **({"momentum": 0.9} if base is torch.optim.SGD else {})}
    states, counts = [], []
    for kind in (own, base):
        weight = nn.Parameter(torch.arange(6.0))
        optimizer = kind([{"params": [weight]}], **options)
        optimizer.add_param_group({"params": [nn.Parameter(torch.ones(1))], "lr": 0.5})
        schedule, called = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step), list[int]()
        optimizer.register_step_post_hook(lambda *_, called=called: called.append(1))
        for _ in range(3):
            optimizer.zero_grad()
            weight.square().sum().backward()
            optimizer.step()
            schedule.step()
        saved = copy.deepcopy(optimizer.state_dict())
        optimizer.step(lambda weight=weight: (weight * 2).sum().backward())
        assert weight.requires_grad and not optimizer.state[weight][next(iter(optimizer.state[weight]))].requires_grad
        optimizer.load_state_dict(saved)
        states.append((weight.detach(), optimizer.state_dict()))
        counts.append(len(called))
    assert counts == [4, 4] and torch.equal(states[0][0], states[1][0])
    torch.testing.assert_close(states[0][1], states[1][1], rtol=0, atol=0)
    assert issubclass(own, base) and own.__name__ == base.__name__


def test_release_without_wrappers_is_used_as_it_is() -> None:
    def method(self: object) -> None: ...

    assert plain_optim._plain(method) is method
