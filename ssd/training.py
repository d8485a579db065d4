"""The training loop: data, model, optimiser, epochs, evaluation, run folder."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from ssd.config import TrainConfig
from ssd.data import Batch, DetectionDataset, Loader, build_loader
from ssd.dataset_format import resolve_dataset
from ssd.models import SSD
from ssd.optim import RunningMean, build_optimizer, build_schedule
from ssd.preparation import choose_device, make_model, open_datasets, priors_report
from ssd.run_folder import RunFolder
from ssd.transforms import build_transforms
from ssd.validation import evaluate_model


class TrainingError(RuntimeError):
    """Training cannot go on; the message says why and what to try."""


@dataclass
class State:
    """What a checkpoint holds besides the model's arguments."""

    model: SSD
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    scaler: torch.amp.GradScaler
    average: RunningMean | None
    epoch: int = 0
    step: int = 0
    best: float = -1.0
    classes: tuple[str, ...] = ()

    def parts(self) -> dict[str, Any]:
        """Everything with a state dict, by name."""
        parts = {"model": self.model, "optimizer": self.optimizer, "schedule": self.schedule, "scaler": self.scaler}
        return parts if self.average is None else {**parts, "average": self.average}

    def best_model(self) -> SSD:
        """The model to evaluate: the running mean of weights where there is one."""
        return self.model if self.average is None else self.average.module  # type: ignore[return-value]


def run(config: TrainConfig) -> RunFolder:
    """Train and evaluate as configured; return the run folder."""
    resolve_dataset(config)
    folder = RunFolder.open(config)
    device = choose_device(config.device)
    torch.manual_seed(config.seed)

    train_set, val_set = open_datasets(config)
    model = make_model(config, train_set).to(device)
    if config.channels_last:
        model = model.to(memory_format=torch.channels_last)
    size = model.image_size
    augment = build_transforms(config.augmentation, size, train=True, **config.augmentation_options)
    loader = build_loader(train_set, augment, config.batch_size, train=True, workers=config.workers, seed=config.seed)
    val_loader = build_loader(
        val_set, build_transforms("none", size, train=False), config.batch_size, train=False, workers=config.workers
    )
    state = make_state(config, model, len(loader))
    state.classes = train_set.classes
    if config.resume:
        folder.load(config.resume, state)
    print(describe(config, state, train_set, val_set, device, folder))
    print(priors_report(model, train_set))

    if config.test_only:
        evaluate_model(state.best_model(), val_loader, config, folder, state.epoch, state.step)
        return folder
    folder.start(config)
    while state.epoch < config.epochs:
        train_epoch(config, state, loader, device, folder)
        state.epoch += 1
        is_best = False
        if state.epoch == config.epochs or state.epoch % config.eval_every == 0:
            result = evaluate_model(state.best_model(), val_loader, config, folder, state.epoch, state.step)
            is_best, state.best = result > state.best, max(result, state.best)
        folder.save("last.pt", state)
        if is_best:
            folder.save("best.pt", state)
    print(f"run folder: {folder.path}")
    return folder


def train_epoch(config: TrainConfig, state: State, loader: Loader, device: torch.device, folder: RunFolder) -> None:
    """Run one epoch. Losses stay on the device between prints, so that the host never waits for a step."""
    state.model.train()
    loader.set_epoch(state.epoch)
    sums = torch.zeros(3, device=device)  # loc, cls, steps
    meter, images = time.perf_counter(), 0
    bar = tqdm(
        loader, desc=f"epoch {state.epoch + 1}/{config.epochs}", unit="batch", total=len(loader), mininterval=0.5
    )
    for i, batch in enumerate(bar):
        losses = train_step(config, state, batch.to(device, non_blocking=True))
        sums += torch.stack([losses["loc"], losses["cls"], torch.ones_like(losses["loc"])])
        images += len(batch)
        if (i + 1) % config.print_freq == 0 or i + 1 == len(loader):
            loc, cls, steps = sums.tolist()
            seconds = time.perf_counter() - meter
            row = {
                "epoch": state.epoch + 1,
                "step": state.step,
                "lr": max(state.schedule.get_last_lr()),
                "loc_loss": loc / steps,
                "cls_loss": cls / steps,
                "images_per_second": images / seconds,
            }
            check_finite(row, batch)
            folder.train_log.add(row)
            bar.set_postfix(loc=f"{loc / steps:.3f}", cls=f"{cls / steps:.3f}", img_s=f"{images / seconds:.1f}")
            sums.zero_()
            meter, images = time.perf_counter(), 0


def train_step(config: TrainConfig, state: State, batch: Batch) -> dict[str, Tensor]:
    """Take one step; return the detached losses."""
    model = state.model
    device = batch.images.device
    images = model.normalize(batch.images)
    if config.channels_last:
        images = images.contiguous(memory_format=torch.channels_last)
    with torch.autocast(device.type, amp_dtype(device), enabled=config.amp):
        loc, logits = model.forward_raw(images)
    losses = model.criterion(loc, logits, model.priors, batch.gt_boxes, batch.gt_labels, batch.offsets, batch.ignore)
    state.scaler.scale(losses["loc"] + losses["cls"]).backward()
    state.scaler.unscale_(state.optimizer)
    if config.clip_grad_norm:
        nn.utils.clip_grad_norm_(model.parameters(), config.clip_grad_norm)
    state.scaler.step(state.optimizer)
    state.scaler.update()
    state.schedule.step()
    state.optimizer.zero_grad(set_to_none=True)
    if state.average is not None:
        state.average.update(model)
    state.step += 1
    return {name: loss.detach() for name, loss in losses.items()}


def amp_dtype(device: torch.device) -> torch.dtype:
    """The half precision of mixed precision: bfloat16 wherever it exists, since it needs no loss scaling."""
    if device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.float16
    return torch.bfloat16


def check_finite(row: dict[str, float], batch: Batch) -> None:
    """Stop at a loss that is not finite, before a checkpoint of broken weights is written."""
    for name in ("loc_loss", "cls_loss"):
        if row[name] - row[name] != 0:  # inf or NaN
            raise TrainingError(
                f"{name} became {row[name]} at step {row['step']} (last batch: image ids {batch.image_ids}). The last "
                "checkpoint is untouched. Usual causes: a learning rate too high (try --lr a tenth), no warm-up "
                "(--warmup-iters), or no limit on gradients (--clip-grad-norm 10)"
            )


def make_state(config: TrainConfig, model: SSD, steps_per_epoch: int) -> State:
    """Optimiser, schedule, loss scaler and running mean of a model."""
    device = next(model.parameters()).device
    optimizer = build_optimizer(config, model)
    return State(
        model=model,
        optimizer=optimizer,
        schedule=build_schedule(config, optimizer, steps_per_epoch),
        scaler=torch.amp.GradScaler(device.type, enabled=config.amp and amp_dtype(device) == torch.float16),
        average=RunningMean(model, config.ema_decay) if config.ema_decay else None,
    )


def describe(
    config: TrainConfig,
    state: State,
    train_set: DetectionDataset,
    val_set: DetectionDataset,
    device: torch.device,
    folder: RunFolder,
) -> str:
    """One line on what is about to happen."""
    weights = sum(p.numel() for p in state.model.parameters()) / 1e6
    return (
        f"{config.model}: {weights:.2f} M weights, {len(state.model.priors)} priors, input {state.model.image_size}; "
        f"{len(train_set)} training and {len(val_set)} evaluation images; epochs {state.epoch + 1} to {config.epochs} "
        f"on {device}; run folder {folder.path}"
    )
