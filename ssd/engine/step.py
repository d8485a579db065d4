"""One training step: forward, matching, loss, backward, update; without synchronizing with the device."""

from __future__ import annotations

import contextlib
import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import ssd_ops
from ssd.common.errors import ConfigError
from ssd.config import TrainConfig
from ssd.data import Batch
from ssd.engine.capturable_optim import DeviceRates
from ssd.engine.distributed import World
from ssd.engine.layer_groups import LayerGroups
from ssd.engine.optim import ModelEMA, build_optimizer, build_schedule, total_steps
from ssd.engine.step_graph import GraphedStep
from ssd.engine.unlabeled import with_unlabeled
from ssd.models import SSD
from ssd.models.half_precision import has_native_bfloat16
from ssd.models.heads import Outputs

Network = Callable[[Tensor], tuple[Outputs, Outputs]]


@dataclass
class State:
    """State of a training run; most of it is saved in checkpoints."""

    model: SSD
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LambdaLR
    scaler: torch.amp.GradScaler
    ema: ModelEMA | None
    network: Network  # forward_levels, wrapped in DDP if there are several processes
    world: World = field(default_factory=World)
    epoch: int = 0  # number of completed epochs
    batch: int = 0  # number of completed batches in the current epoch
    step: int = 0
    evaluated: int = 0  # the last epoch that was evaluated
    best: float = -1.0
    evaluations_since_best: int = 0
    classes: tuple[str, ...] = ()
    apply_exif: bool | None = None  # whether EXIF orientation is applied to the training images; None: unknown
    rates: DeviceRates | None = None  # learning rates of a fused optimizer
    graphed: GraphedStep | None = None  # None: steps run eagerly
    groups: LayerGroups = field(default_factory=LayerGroups)
    steps_per_epoch: int = 1
    images_per_step: int = 1  # over all processes
    unlabeled_from: float = math.inf  # the step from which --ignore-unlabeled and --label-unlabeled apply

    def parts(self) -> dict[str, Any]:
        """Returns all parts with a state dict, by their keys in a checkpoint."""
        parts = {"model": self.model, "optimizer": self.optimizer, "schedule": self.schedule, "scaler": self.scaler}
        return parts if self.ema is None else {**parts, "average": self.ema}

    def best_model(self) -> SSD:
        """Returns the model to evaluate: the EMA if there is one."""
        return self.model if self.ema is None else self.ema.module  # type: ignore[return-value]

    def adds_unlabeled(self) -> bool:
        """Returns whether this step adds the detections of the EMA that no annotation covers to its objects."""
        return self.step >= self.unlabeled_from

    def keeps_weights_of_non_finite_loss(self) -> bool:
        """Returns whether each step checks its loss before the update; on a GPU or in DDP it would have to wait."""
        return self.world.size == 1 and self.model.priors.device.type == "cpu"

    def skip_to(self, epoch: int, steps_per_epoch: int) -> None:
        """Counts epochs as completed without running them, and advances the schedule."""
        self.epoch = self.evaluated = epoch
        self.step = epoch * steps_per_epoch
        self.move_schedule(self.step)

    def move_schedule(self, step: int) -> None:
        """Sets the learning rates to those of a step of the schedule."""
        schedule = self.schedule
        rates = [base * of(step) for base, of in zip(schedule.base_lrs, schedule.lr_lambdas, strict=True)]
        schedule.last_epoch, schedule._step_count, schedule._last_lr = step, step + 1, rates
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate


class _Forward(nn.Module):
    """Makes a forward function of a detector the `forward` that DDP wraps."""

    def __init__(self, model: SSD, network: Network) -> None:
        super().__init__()
        self.model = model
        self.network = network

    def forward(self, images: Tensor) -> tuple[Outputs, Outputs]:
        return self.network(images)


def make_state(config: TrainConfig, model: SSD, steps_per_epoch: int, world: World | None = None) -> State:
    """Builds optimizer, schedule, loss scaler and EMA for a model that is already on its device."""
    world = world or World()
    device = next(model.parameters()).device
    optimizer = build_optimizer(config, model, world.size)
    network: Network = model.forward_levels
    if config.compile:
        # Batches of a run have one size. Without fullgraph, errors of the network (a batch of one image) stay its own.
        network = torch.compile(network, dynamic=False)
    if world.size > 1:
        # Running statistics need no broadcast at each step: training does not use them, and World.broadcast_buffers
        # copies those of rank 0 before an evaluation.
        ddp: Any = nn.parallel.DistributedDataParallel
        names = inspect.signature(ddp).parameters
        no_broadcast = "forward_sync_buffers" if "forward_sync_buffers" in names else "broadcast_buffers"  # older torch
        network = ddp(
            _Forward(model, network),
            device_ids=[device.index] if device.type == "cuda" else None,
            gradient_as_bucket_view=True,
            **{no_broadcast: False},
        )
    state = State(
        model=model,
        optimizer=optimizer,
        schedule=build_schedule(config, optimizer, steps_per_epoch),
        scaler=torch.amp.GradScaler(device.type, enabled=config.amp and amp_dtype(device) == torch.float16),
        ema=ModelEMA(model, config.ema_decay) if config.ema_decay else None,
        network=network,
        world=world,
        rates=DeviceRates(optimizer) if device.type == "cuda" else None,
        steps_per_epoch=steps_per_epoch,
        images_per_step=config.batch_size * world.size,
    )
    if world.size == 1 and not config.compile:
        state.groups = LayerGroups(model, amp_dtype(device) if config.amp else None)
    if config.ignore_unlabeled or config.label_unlabeled:
        state.unlabeled_from = total_steps(config, steps_per_epoch) / 4
    reason = why_not_graphed(config, device, world)
    if reason is None:
        step = partial(optimize, config, state)
        state.graphed = GraphedStep(
            step, model, optimizer, required=config.cuda_graph == "on", variant=state.adds_unlabeled
        )
    elif config.cuda_graph == "on":
        raise ConfigError(f"--cuda-graph on is not possible: {reason}")
    return state


def why_not_graphed(config: TrainConfig, device: torch.device, world: World) -> str | None:
    """Returns why a training step cannot run as a CUDA graph, or None if it can."""
    if config.cuda_graph == "off":
        return "--cuda-graph off"
    if device.type != "cuda":
        return f"the device is {device}"
    return f"{world.size} processes average their gradients" if world.size > 1 else None


def describe_step(config: TrainConfig, state: State) -> str:
    """Returns a line about how training steps run: as a CUDA graph, or eagerly and why, and whether compiled."""
    compiled = ", network compiled by torch.compile at the first step" if config.compile else ""
    if state.graphed is not None:
        return f"training step: one CUDA graph, captured at step {state.step + state.graphed.eager_steps + 1}{compiled}"
    return f"training step: eager ({why_not_graphed(config, state.model.priors.device, state.world)}){compiled}"


def train_step(config: TrainConfig, state: State, batch: Batch) -> dict[str, Tensor]:
    """Runs one training step.

    Returns:
        The detached losses; their mean over the processes is the loss of the whole batch.
    """
    if state.rates is not None:
        state.rates.refresh()
    losses = optimize(config, state, batch) if state.graphed is None else state.graphed(batch)
    state.schedule.step()
    if state.ema is not None:
        state.ema.update(state.model)
    state.step += 1
    return losses


def optimize(config: TrainConfig, state: State, batch: Batch) -> dict[str, Tensor]:
    """Computes losses and gradients of a batch and updates the weights: the part of a step inside the CUDA graph."""
    losses = backward(config, state, batch)
    if state.keeps_weights_of_non_finite_loss() and not is_finite(losses):
        return losses  # the run ends here, and `ssd replay` needs these weights
    state.scaler.unscale_(state.optimizer)
    if config.clip_grad_norm:
        nn.utils.clip_grad_norm_(state.model.parameters(), config.clip_grad_norm)
    with contextlib.nullcontext() if state.rates is None else state.rates.applied():
        state.scaler.step(state.optimizer)
    state.scaler.update()
    state.optimizer.zero_grad(set_to_none=True)
    return losses


def backward(config: TrainConfig, state: State, batch: Batch) -> dict[str, Tensor]:
    """Computes the losses of a batch and their gradients, scaled so that DDP's mean is that of the whole batch.

    With --accumulate, the batch goes through the network in parts, whose gradients add up to those of the whole batch,
    except for the statistics of BatchNorm.
    """
    model, criterion = state.model, state.model.criterion
    device = batch.images.device
    images = model.normalize(batch.images)
    if config.channels_last:
        images = images.contiguous(memory_format=torch.channels_last)
    if state.adds_unlabeled():
        with torch.autocast(device.type, amp_dtype(device), enabled=config.amp):
            scores = (config.ignore_unlabeled or math.inf, config.label_unlabeled or math.inf)
            batch = with_unlabeled(state.best_model(), images, batch, *scores)
    matches = criterion.match(model.priors, batch.gt_boxes, batch.gt_labels, batch.offsets, batch.ignore)
    total = dict.fromkeys(("loc", "cls"), torch.zeros((), device=device))
    count = min(config.accumulate, len(images))  # an incomplete batch may have fewer images than parts
    parts = list(zip(*(tensor.tensor_split(count) for tensor in (images, *matches)), strict=True))
    if config.sync_bn and state.world.size > 1:  # its statistics need as many passes on each process, see below
        parts += parts[-1:] * (config.accumulate - count)
    normalizer = criterion.preset.normalizer
    whole = None if count == state.world.size == 1 else state.world.loss_normalizer(matches.labels, normalizer)
    for index, (part, *assigned) in enumerate(parts):
        own = ssd_ops.PriorMatches(*assigned)
        factor = None if whole is None else state.world.loss_factor(own.labels, normalizer, whole)
        if factor is not None and index >= count:
            factor = torch.zeros_like(factor)  # a repeated part, which only contributes to the statistics
        is_last = index == len(parts) - 1  # DDP averages the gradients of all parts in one go
        with contextlib.nullcontext() if is_last else getattr(state.network, "no_sync", contextlib.nullcontext)():
            with torch.autocast(device.type, amp_dtype(device), enabled=config.amp), state.groups.applied():
                loc, logits = state.network(part)
            losses = criterion.losses(loc, logits, own, model.priors)
            if factor is not None:
                losses = {name: loss * factor.to(loss.dtype) for name, loss in losses.items()}
            state.scaler.scale(losses["loc"] + losses["cls"]).backward()
            state.groups.collect()
        total = {name: value + losses[name].detach() for name, value in total.items()}
    return total


def is_finite(losses: dict[str, Tensor]) -> bool:
    """Returns whether all losses are finite; synchronizes with the device."""
    return all(bool(loss.isfinite()) for loss in losses.values())


def amp_dtype(device: torch.device) -> torch.dtype:
    """Returns the dtype of mixed precision: bfloat16 if the device supports it, since it needs no loss scaling."""
    return torch.float16 if device.type == "cuda" and not has_native_bfloat16(device) else torch.bfloat16
