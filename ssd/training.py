"""The training loop: data, model, optimiser, epochs, evaluation, run folder."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from ssd.config import ConfigError, TrainConfig
from ssd.data import Batch, DetectionDataset, Loader, build_loader, open_dataset
from ssd.fit_priors import fit_prior_sizes
from ssd.models import SSD, build_model
from ssd.optim import RunningMean, build_optimizer, build_schedule
from ssd.prior_coverage import prior_coverage
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


def choose_device(name: str) -> torch.device:
    """The device of a name; `auto` is a GPU where there is one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"--device {name}: {str(error).splitlines()[0]}") from error
    return device


def open_datasets(config: TrainConfig) -> tuple[DetectionDataset, DetectionDataset]:
    """Open both splits and print what they hold."""
    train_set = open_dataset(config.dataset, config.data_path, config.train_split, **config.dataset_options)
    options = dict(config.dataset_options)
    if config.dataset == "voc":
        options.setdefault("classes", train_set.classes)  # names found in the training split, in its order
    val_set = open_dataset(config.dataset, config.data_path, config.val_split, **options)
    if train_set.classes != val_set.classes:
        raise ConfigError(
            f"the splits have different classes: {train_set.classes} in {config.train_split}, "
            f"{val_set.classes} in {config.val_split}"
        )
    print(train_set.summary())
    print(val_set.summary())
    return train_set, val_set


def make_model(config: TrainConfig, dataset: DetectionDataset) -> SSD:
    """Build the model, with priors fitted to the data where asked; wrong options are configuration errors."""
    options = dict(config.model_options)
    if config.weights_backbone is not None:
        options["weights_backbone"] = config.weights_backbone
    classes = len(dataset.classes) + 1
    try:
        model = build_model(config.model, classes, preset=config.preset, image_size=config.image_size, **options)
        if config.fit_priors:
            boxes, labels = normalised_objects(dataset)
            sizes = fit_prior_sizes(model.prior_config, boxes, labels)
            print(f"prior sizes fitted to {dataset.name}: {', '.join(f'{s:g}' for s in sizes)} px of the input")
            options["prior_sizes"] = sizes
            model = build_model(config.model, classes, preset=config.preset, image_size=config.image_size, **options)
    except (ValueError, TypeError) as error:
        raise ConfigError(str(error)) from error
    return model


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


def normalised_objects(dataset: DetectionDataset) -> tuple[list[Tensor], list[Tensor]]:
    """Boxes (0..1 of their image) and labels of all images, from the annotations alone; ignored objects are left out."""
    boxes, labels = [], []
    for i in range(len(dataset)):
        target = dataset.target(i)
        height, width = (float(v) for v in dataset.annotations.sizes[i])
        keep = ~target["ignore"]
        boxes.append(target["boxes"][keep] / torch.tensor([width, height, width, height]))
        labels.append(target["labels"][keep])
    return boxes, labels


def priors_report(model: SSD, dataset: DetectionDataset) -> str:
    """Say how many objects of the data set a prior matches, and warn if they are few."""
    boxes, labels = normalised_objects(dataset)
    coverage = prior_coverage(model.priors.cpu(), boxes, labels, dataset.classes, model.preset.match_threshold)
    coverage.warn(image_size=model.image_size)
    return str(coverage)


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
