"""Optimizer, learning rate schedule and exponential moving average of the weights."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn

from ssd.common.errors import ConfigError
from ssd.config import TrainConfig
from ssd.engine.capturable_optim import keep_implementation_on_load
from ssd.engine.plain_optim import SGD, AdamW
from ssd.models.tensor_slots import Slot, tensor_slots

_NORMS = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm, nn.LocalResponseNorm)


def build_optimizer(config: TrainConfig, model: nn.Module, world_size: int = 1) -> torch.optim.Optimizer:
    """Builds SGD or AdamW for the trainable parameters, fused on a CPU or GPU.

    The pretrained part of the backbone, its extra layers, the heads, and biases have their own learning rates; biases
    and normalization layers have their own weight decay.

    Args:
        config: Configuration of the run.
        model: Model to train.
        world_size: Number of processes, for --lr-batch-size.

    Raises:
        ConfigError: No parameter is trainable.
    """
    norms = {
        name
        for module_name, module in model.named_modules()
        if isinstance(module, _NORMS)
        for name in (f"{module_name}.weight", f"{module_name}.bias")
    }
    rate = base_rate(config, world_size)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            kind = "norm" if name in norms else "bias" if name.endswith("bias") else "weight"
            lr = rate * _lr_factor(config, name) * (config.bias_lr_factor if kind == "bias" else 1.0)
            groups.setdefault((lr, _decay(config, kind)), []).append(parameter)
    settings: list[dict[str, Any]] = [
        {"params": parameters, "lr": lr, "weight_decay": decay} for (lr, decay), parameters in groups.items()
    ]
    if not settings:
        raise ConfigError(
            "there are no trainable parameters: --freeze, --trainable-backbone-layers or --model-option freeze them all"
        )
    fused = True if settings[0]["params"][0].device.type in ("cpu", "cuda") else None
    optimizer: torch.optim.Optimizer
    if config.opt == "adamw":
        optimizer = AdamW(settings, lr=rate, betas=(config.momentum, 0.999), fused=fused)
    else:
        nesterov = config.opt == "sgd_nesterov"
        optimizer = SGD(settings, lr=rate, momentum=config.momentum, nesterov=nesterov, fused=fused)
    keep_implementation_on_load(optimizer)
    return optimizer


def base_rate(config: TrainConfig, world_size: int) -> float:
    """Returns the learning rate after warmup: --lr, scaled by the total batch size if --lr-batch-size is set."""
    if config.lr_batch_size:
        return config.lr * config.batch_size * world_size / config.lr_batch_size
    return config.lr


def part_of(name: str) -> str:
    """Returns the part of a detector that a parameter belongs to: "features" (possibly pretrained), "extra" or "head"."""
    if ".features." in f".{name}":
        return "features"
    return "extra" if name.startswith("backbone.") else "head"


def freeze(config: TrainConfig, model: nn.Module) -> None:
    """Freezes the parameters selected by --freeze."""
    parts = {"none": (), "features": ("features",), "backbone": ("features", "extra")}[config.freeze]
    for name, parameter in model.named_parameters():
        if part_of(name) in parts:
            parameter.requires_grad_(False)


def _lr_factor(config: TrainConfig, name: str) -> float:
    return {"features": config.backbone_lr_factor, "extra": config.extra_lr_factor, "head": 1.0}[part_of(name)]


def _decay(config: TrainConfig, kind: str) -> float:
    own = {"norm": config.norm_weight_decay, "bias": config.bias_weight_decay, "weight": None}[kind]
    return config.weight_decay if own is None else own


def total_steps(config: TrainConfig, steps_per_epoch: int) -> int:
    """Returns the number of steps of the whole run."""
    return config.iterations or config.epochs * steps_per_epoch


def build_schedule(
    config: TrainConfig, optimizer: torch.optim.Optimizer, steps_per_epoch: int
) -> torch.optim.lr_scheduler.LambdaLR:
    """Builds the per-step schedule: linear warmup times the decay of --lr-scheduler."""
    total = total_steps(config, steps_per_epoch)
    warmup_iters = config.warmup_iters
    if config.lr_update == "epoch":  # torchvision warms up within the first epoch only
        warmup_iters = min(warmup_iters, steps_per_epoch - 1)
    start = 1 / (warmup_iters + 1) if config.warmup_factor is None else config.warmup_factor

    def factor(step: int) -> float:
        warmup = start + (1 - start) * step / warmup_iters if step < warmup_iters else 1.0
        if config.lr_update == "epoch":
            step -= step % steps_per_epoch
        return warmup * _decay_factor(config, min(step, total), total, steps_per_epoch)

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def _decay_factor(config: TrainConfig, step: int, total: int, steps_per_epoch: int) -> float:
    unit = 1 if config.iterations else steps_per_epoch
    if config.lr_scheduler == "multisteplr":
        return config.lr_gamma ** sum(step >= drop * unit for drop in config.lr_steps)
    if config.lr_scheduler == "steplr":
        return config.lr_gamma ** (step // (config.lr_step_size * unit))
    if config.lr_scheduler == "polynomial":
        return float((1 - step / total) ** config.lr_power)
    return 0.5 * (1 + math.cos(math.pi * step / total))


class ModelEMA:
    """Exponential moving average (EMA) of the weights and buffers of a model, which is the model that is evaluated.

    The decay ramps up from 0.1 over the first steps, so that the initial weights do not dominate a short run. Unlike
    torch's AveragedModel it counts updates on the host, so that a step does not synchronize with the GPU.

    Args:
        model: Model to average.
        decay: Weight of the average in each update, below 1.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.module = copy.deepcopy(model).requires_grad_(False).eval()
        self.decay = decay
        self.updates = 0
        self._ema_slots = tensor_slots(self.module)
        self._model_slots: tuple[nn.Module, list[Slot]] = (model, tensor_slots(model))

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Moves the average towards the weights of `model`."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        if self._model_slots[0] is not model:
            self._model_slots = (model, tensor_slots(model))
        averages: list[Tensor] = [tensors[name] for tensors, name in self._ema_slots]
        values: list[Tensor] = [tensors[name] for tensors, name in self._model_slots[1]]
        pairs = list(zip(averages, values, strict=True))
        floats = [(average, value) for average, value in pairs if average.is_floating_point()]
        torch._foreach_lerp_([average for average, _ in floats], [value for _, value in floats], 1 - decay)
        counters = [(average, value) for average, value in pairs if not average.is_floating_point()]
        if counters:
            torch._foreach_copy_([average for average, _ in counters], [value for _, value in counters])

    def state_dict(self) -> dict[str, Any]:
        """Returns the state for a checkpoint."""
        return {"module": self.module.state_dict(), "updates": self.updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores the state of a checkpoint."""
        self.module.load_state_dict(state["module"])
        self.updates = state["updates"]
