"""The training loop: data, model, optimiser, epochs, evaluation, run folder; on one process or on many."""

from __future__ import annotations

import os
from itertools import islice
from typing import Any

import torch
from tqdm import tqdm

from ssd.auto_settings import Choices, Facts, choose_model, choose_settings
from ssd.config import TrainConfig
from ssd.data import DetectionDataset, Loader, build_loader
from ssd.dataset_format import resolve_dataset
from ssd.distributed import TrainingError, World, synchronize_batch_norm
from ssd.meter import LossMeter
from ssd.optim import base_rate
from ssd.preparation import choose_device, make_model, mistakes, normalized_objects, open_datasets, priors_report
from ssd.run_folder import RunFolder
from ssd.step import State, describe_step, make_state, train_step
from ssd.transforms import build_transforms
from ssd.validation import evaluate_model

__all__ = ["State", "TrainingError", "make_state", "run", "train_epoch", "train_step"]


def run(config: TrainConfig) -> RunFolder:
    """Train and evaluate as configured; return the run folder."""
    resolve_dataset(config)
    if config.use_deterministic_algorithms:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it cuBLAS refuses to be deterministic
        torch.use_deterministic_algorithms(True)
    with mistakes():
        choices = choose_model(config)
    world = World.join(config.device, config.dist_url)
    folder = RunFolder.open(config, world)
    state, loader, val_loader = prepare(config, world, folder, choices)
    if config.test_only:
        evaluate_model(state.best_model(), val_loader, config, folder, state.epoch, state.step)
        world.leave()
        return folder
    epochs = epochs_of(config, len(loader))
    while state.epoch < epochs:
        train_epoch(config, state, loader, folder)
        state.epoch += 1
        is_best = False
        if is_evaluated(config, state.epoch, epochs):
            result = evaluate_model(state.best_model(), val_loader, config, folder, state.epoch, state.step)
            is_best, state.best = result > state.best, max(result, state.best)
        folder.save("last.pt", state)
        if is_best:
            folder.save("best.pt", state)
    print(f"run folder: {folder.path}")
    world.leave()
    return folder


def prepare(config: TrainConfig, world: World, folder: RunFolder, choices: Choices) -> tuple[State, Loader, Loader]:
    """Data sets, model and all that a checkpoint holds; a mistake met here ends all processes with one message."""
    with world.together():
        device = choose_device(config.device, world)
        torch.manual_seed(config.seed)
        train_set, val_set = open_datasets(config)
        choose_settings(choices, Facts.of(len(train_set), normalized_objects(train_set)[0], device, world.size))
        print(choices, end="")
        with world.first_before_others():
            model = make_model(config, train_set)
        model = model.to(device)
        if config.channels_last:
            model = model.to(memory_format=torch.channels_last)
        if config.sync_bn and world.size > 1:
            synchronize_batch_norm(model, device)
        torch.manual_seed(config.seed + world.rank)  # what a network draws in training differs between processes
        size = model.image_size
        deferred, options = config.device_augmentation, config.augmentation_options
        with mistakes("--augmentation-option: "):
            augment = build_transforms(config.augmentation, size, train=True, deferred=deferred, **options)
        plain = build_transforms(config.augmentation, size, train=False, **options)
        share: dict[str, Any] = {"workers": config.workers, "rank": world.rank, "world_size": world.size}
        loader = build_loader(train_set, augment, config.batch_size, train=True, seed=config.seed, **share)
        val_loader = build_loader(val_set, plain, config.batch_size, train=False, **share)
        state = make_state(config, model, len(loader), world)
        state.classes = train_set.classes
        if config.resume:
            folder.load(config.resume, state)
        elif config.start_epoch:
            state.skip_to(config.start_epoch, len(loader))
        if not config.test_only:
            folder.start(config)
    print(describe(config, state, train_set, val_set, epochs_of(config, len(loader)), folder))
    print(priors_report(model, train_set))
    if device.type == "cuda" and not config.test_only:
        print(describe_step(config, state))
    return state, loader, val_loader


def train_epoch(config: TrainConfig, state: State, loader: Loader, folder: RunFolder) -> None:
    """Run one epoch, or what --iterations leaves of it."""
    state.model.train()
    loader.set_epoch(state.epoch)
    steps = min(len(loader), config.iterations - state.step) if config.iterations else len(loader)
    device = state.model.priors.device
    meter, taken = LossMeter(state.world, device), 0
    bar = tqdm(
        islice(loader, steps),
        desc=f"epoch {state.epoch + 1}/{epochs_of(config, len(loader))}",
        unit="batch",
        total=steps,
        mininterval=0.5,
        disable=not state.world.is_first,
    )
    for batch in bar:
        meter.add(train_step(config, state, batch.to(device, non_blocking=True)), state.step, batch.image_ids)
        taken += 1
        if taken % config.print_freq == 0 or taken == steps:
            row = meter.read()
            rate = max(state.schedule.get_last_lr())
            folder.train_log.add({"epoch": state.epoch + 1, "step": state.step, "lr": rate, **row})
            bar.set_postfix(loc=f"{row['loc_loss']:.3f}", cls=f"{row['cls_loss']:.3f}", img_s=row["images_per_second"])
    if taken < steps and state.world.size > 1:
        raise TrainingError(
            f"a batch of epoch {state.epoch + 1} held no image that can be read; mend or remove the images"
        )


def epochs_of(config: TrainConfig, steps_per_epoch: int) -> int:
    """The epochs of a run: as configured, or as many as --iterations begins."""
    return -(-config.iterations // steps_per_epoch) if config.iterations else config.epochs


def is_evaluated(config: TrainConfig, epoch: int, epochs: int) -> bool:
    """Whether an evaluation follows an epoch, counted from 1; the last one always has one."""
    if epoch == epochs:
        return True
    return epoch in config.eval_epochs if config.eval_epochs else epoch % config.eval_every == 0


def describe(
    config: TrainConfig,
    state: State,
    train_set: DetectionDataset,
    val_set: DetectionDataset,
    epochs: int,
    folder: RunFolder,
) -> str:
    """A line on what is about to happen."""
    model, world = state.model, state.world
    weights = sum(p.numel() for p in model.parameters()) / 1e6
    places = f"{world.size} processes, each with {config.batch_size} images a step" if world.size > 1 else "one process"
    task = f"epochs {state.epoch + 1} to {epochs}, {config.opt}, learning rate {base_rate(config, world.size):g}"
    return (
        f"{config.model}: {weights:.2f} M weights, {len(model.priors)} priors, input {model.image_size}; "
        f"{len(train_set)} training and {len(val_set)} evaluation images; {'evaluation' if config.test_only else task} "
        f"on {model.priors.device} ({places}); run folder {folder.path}"
    )
