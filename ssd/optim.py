"""Optimiser, learning rate schedule and running mean of weights."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import nn

from ssd.config import TrainConfig


def build_optimizer(config: TrainConfig, model: nn.Module) -> torch.optim.Optimizer:
    """Make SGD or AdamW over the weights that learn.

    Weight decay leaves out biases and norms. The backbone's own features, which may come pretrained, learn at
    `backbone_lr_factor` of the rate; extra levels, feature pyramid and heads, which start from nothing, at the whole.
    """
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            in_backbone = ".features." in f".{name}"
            groups.setdefault((in_backbone, parameter.dim() > 1), []).append(parameter)
    settings: list[dict[str, Any]] = [
        {
            "params": parameters,
            "lr": config.lr * (config.backbone_lr_factor if in_backbone else 1.0),
            "weight_decay": config.weight_decay if decays else 0.0,
        }
        for (in_backbone, decays), parameters in groups.items()
    ]
    if config.opt == "adamw":
        return torch.optim.AdamW(settings, lr=config.lr, betas=(config.momentum, 0.999))
    return torch.optim.SGD(settings, lr=config.lr, momentum=config.momentum, nesterov=config.momentum > 0)


def build_schedule(
    config: TrainConfig, optimizer: torch.optim.Optimizer, steps_per_epoch: int
) -> torch.optim.lr_scheduler.LambdaLR:
    """Make the schedule, step by step: linear warm-up, then drops at epochs (multi-step) or half a cosine down to 0."""
    total = config.epochs * steps_per_epoch

    def factor(step: int) -> float:
        warmup = min(1.0, (step + 1) / (config.warmup_iters + 1))
        if config.lr_scheduler == "multisteplr":
            passed = sum(step >= epoch * steps_per_epoch for epoch in config.lr_steps)
            return warmup * config.lr_gamma**passed
        return warmup * 0.5 * (1 + math.cos(math.pi * min(step, total) / total))

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


class RunningMean:
    """The exponential running mean of a model's weights and buffers: the model that gets evaluated.

    The decay rises from 0.1 over the first steps, so that a short run is not judged by its start. Unlike torch's
    AveragedModel it counts on the host, and no step waits for the GPU.

    Args:
        model: The model that learns.
        decay: What remains of the mean at each step, below 1.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.module = copy.deepcopy(model).requires_grad_(False)
        self.decay = decay
        self.updates = 0

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move the mean towards the weights of `model`."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        means, values = list(self.module.state_dict().values()), list(model.state_dict().values())
        floating = [i for i, mean in enumerate(means) if mean.is_floating_point()]
        torch._foreach_lerp_([means[i] for i in floating], [values[i] for i in floating], 1 - decay)
        for i in set(range(len(means))) - set(floating):  # counters
            means[i].copy_(values[i])

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint holds."""
        return {"module": self.module.state_dict(), "updates": self.updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.module.load_state_dict(state["module"])
        self.updates = state["updates"]
