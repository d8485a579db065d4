"""One step of training: forward, matching, loss, backward, update. Nothing in it makes the host wait for the device."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ssd.config import TrainConfig
from ssd.data import Batch
from ssd.engine.capturable_optim import DeviceRates
from ssd.engine.distributed import World
from ssd.engine.optim import RunningMean, build_optimizer, build_schedule
from ssd.engine.step_graph import GraphedStep
from ssd.errors import ConfigError
from ssd.models import SSD


@dataclass
class State:
    """What a checkpoint holds besides the model's arguments."""

    model: SSD
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LambdaLR
    scaler: torch.amp.GradScaler
    average: RunningMean | None
    network: Callable[[Tensor], tuple[Tensor, Tensor]]  # forward_raw, with the processes' gradients averaged
    world: World = field(default_factory=World)
    epoch: int = 0  # whole ones that are done
    batch: int = 0  # batches of the epoch after those that are done
    step: int = 0
    evaluated: int = 0  # the last epoch that has been evaluated
    best: float = -1.0
    classes: tuple[str, ...] = ()
    apply_exif: bool | None = None  # whether the training images are turned as EXIF says; None: unknown
    rates: DeviceRates | None = None  # of a fused optimizer
    graphed: GraphedStep | None = None  # None: each step is launched kernel by kernel
    steps_per_epoch: int = 1
    images_per_step: int = 1  # of all processes

    def parts(self) -> dict[str, Any]:
        """Everything with a state dict, by name."""
        parts = {"model": self.model, "optimizer": self.optimizer, "schedule": self.schedule, "scaler": self.scaler}
        return parts if self.average is None else {**parts, "average": self.average}

    def best_model(self) -> SSD:
        """The model to evaluate: the running mean of weights where there is one."""
        return self.model if self.average is None else self.average.module  # type: ignore[return-value]

    def skip_to(self, epoch: int, steps_per_epoch: int) -> None:
        """Count epochs as done that were not run, the schedule's too."""
        self.epoch = self.evaluated = epoch
        self.step = epoch * steps_per_epoch
        self.move_schedule(self.step)

    def move_schedule(self, step: int) -> None:
        """Set the rates of a step of the schedule."""
        schedule = self.schedule
        rates = [base * of(step) for base, of in zip(schedule.base_lrs, schedule.lr_lambdas, strict=True)]
        schedule.last_epoch, schedule._step_count, schedule._last_lr = step, step + 1, rates
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate


class _Raw(nn.Module):
    """DDP averages the gradients of a module's forward; a detector's network is its forward_raw."""

    def __init__(self, model: SSD) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return self.model.forward_raw(images)


def make_state(config: TrainConfig, model: SSD, steps_per_epoch: int, world: World | None = None) -> State:
    """Optimizer, schedule, loss scaler and running mean of a model that is on its device."""
    world = world or World()
    device = next(model.parameters()).device
    optimizer = build_optimizer(config, model, world.size)
    network: Callable[[Tensor], tuple[Tensor, Tensor]] = model.forward_raw
    if world.size > 1:
        # Running statistics are not broadcast at each step: they do not act in training, and broadcast_buffers gives all
        # processes those of the first before they matter, the same ones that a broadcast would give.
        ddp: Any = nn.parallel.DistributedDataParallel
        names = inspect.signature(ddp).parameters
        no_broadcast = "forward_sync_buffers" if "forward_sync_buffers" in names else "broadcast_buffers"  # older torch
        network = ddp(
            _Raw(model),
            device_ids=[device.index] if device.type == "cuda" else None,
            gradient_as_bucket_view=True,
            **{no_broadcast: False},
        )
    state = State(
        model=model,
        optimizer=optimizer,
        schedule=build_schedule(config, optimizer, steps_per_epoch),
        scaler=torch.amp.GradScaler(device.type, enabled=config.amp and amp_dtype(device) == torch.float16),
        average=RunningMean(model, config.ema_decay) if config.ema_decay else None,
        network=network,
        world=world,
        rates=DeviceRates(optimizer) if device.type == "cuda" else None,
        steps_per_epoch=steps_per_epoch,
        images_per_step=config.batch_size * world.size,
    )
    refusal = graph_refusal(config, device, world)
    if refusal is None:
        state.graphed = GraphedStep(partial(learn, config, state), model, optimizer, must=config.cuda_graph == "on")
    elif config.cuda_graph == "on":
        raise ConfigError(f"--cuda-graph on cannot be: {refusal}")
    return state


def graph_refusal(config: TrainConfig, device: torch.device, world: World) -> str | None:
    """Why a step cannot be a CUDA graph, or None."""
    if config.cuda_graph == "off":
        return "--cuda-graph off"
    if device.type != "cuda":
        return f"the device is {device}"
    return f"{world.size} processes average their gradients in it" if world.size > 1 else None


def describe_step(config: TrainConfig, state: State) -> str:
    """A line that says how the steps of a run are taken."""
    if state.graphed is not None:
        return f"training step: one CUDA graph, captured at step {state.step + state.graphed.eager_steps + 1}"
    return f"training step: eager ({graph_refusal(config, state.model.priors.device, state.world)})"


def train_step(config: TrainConfig, state: State, batch: Batch) -> dict[str, Tensor]:
    """Take one step; return the detached losses, whose mean over the processes is the loss of all their images."""
    if state.rates is not None:
        state.rates.refresh()
    losses = learn(config, state, batch) if state.graphed is None else state.graphed(batch)
    state.schedule.step()
    if state.average is not None:
        state.average.update(state.model)
    state.step += 1
    return losses


def learn(config: TrainConfig, state: State, batch: Batch) -> dict[str, Tensor]:
    """Compute losses and gradients of a batch and update the weights: all of a step that a CUDA graph holds."""
    losses = backward(config, state, batch)
    state.scaler.unscale_(state.optimizer)
    if config.clip_grad_norm:
        nn.utils.clip_grad_norm_(state.model.parameters(), config.clip_grad_norm)
    with contextlib.nullcontext() if state.rates is None else state.rates.in_place_of_numbers():
        state.scaler.step(state.optimizer)
    state.scaler.update()
    state.optimizer.zero_grad(set_to_none=True)
    return losses


def backward(config: TrainConfig, state: State, batch: Batch) -> dict[str, Tensor]:
    """Compute the losses of a batch and their gradients, as of one process that has the images of all."""
    model, criterion = state.model, state.model.criterion
    device = batch.images.device
    matches = criterion.match(model.priors, batch.gt_boxes, batch.gt_labels, batch.offsets, batch.ignore)
    factor = state.world.loss_factor(matches.labels, criterion.preset.normalizer)
    images = model.normalize(batch.images)
    if config.channels_last:
        images = images.contiguous(memory_format=torch.channels_last)
    with torch.autocast(device.type, amp_dtype(device), enabled=config.amp):
        loc, logits = state.network(images)
    losses = criterion.losses(loc, logits, matches)
    if factor is not None:
        losses = {name: loss * factor.to(loss.dtype) for name, loss in losses.items()}
    state.scaler.scale(losses["loc"] + losses["cls"]).backward()
    return {name: loss.detach() for name, loss in losses.items()}


def amp_dtype(device: torch.device) -> torch.dtype:
    """The half precision of mixed precision: bfloat16 wherever it exists, since it needs no loss scaling."""
    if device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.float16
    return torch.bfloat16
