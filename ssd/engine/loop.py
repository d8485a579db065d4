"""The training loop: data, model, optimizer, epochs, evaluation and run folder, in one process or many."""

from __future__ import annotations

import os
import shlex
import signal
import time
from itertools import islice
from typing import Any

import torch

from ssd.config import TrainConfig
from ssd.config.choices import FILE_DATASETS
from ssd.config.resume_settings import changed_settings
from ssd.console import how_to_run
from ssd.data import DataError, Loader, build_loader
from ssd.data.loading.shared_memory import fitting_workers
from ssd.data_check.before_training import check_before_training
from ssd.dataset_format import resolve_dataset
from ssd.engine.auto_settings import Choices, Facts, choose_model, choose_settings
from ssd.engine.checkpoint import read, restore, seed_everything
from ssd.engine.distributed import SharedError, TrainingError, World, synchronize_batch_norm
from ssd.engine.epochs import epochs_of, is_evaluated
from ssd.engine.evaluation import evaluate_model
from ssd.engine.meter import LossMeter
from ssd.engine.progress import TimeLeft, progress_bar
from ssd.engine.run_folder import RunFolder
from ssd.engine.setup import (
    as_config_error,
    batch_bytes,
    choose_device,
    describe,
    make_model,
    normalized_objects,
    nothing_to_evaluate,
    open_datasets,
    priors_report,
)
from ssd.engine.signals import CONTINUE, SAVE, STOP, Agreement, Interrupted, Interruption
from ssd.engine.step import State, describe_step, make_state, train_step
from ssd.transforms import build_transforms

__all__ = ["State", "TrainingError", "make_state", "run", "train_epoch", "train_step"]


def run(config: TrainConfig) -> RunFolder:
    """Trains and evaluates as configured; returns the run folder.

    Raises:
        Interrupted: Ctrl-C or SIGTERM, after saving a checkpoint; the message contains the command that resumes the run.
    """
    resolve_dataset(config)
    if config.use_deterministic_algorithms:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # required by cuBLAS for determinism
        torch.use_deterministic_algorithms(True)
    if config.resume:
        config.given = None  # type: ignore[misc]  # its settings were chosen when it started
    with as_config_error():
        choices = choose_model(config)
    world = World.join(config.device, config.dist_url)
    folder = RunFolder.open(config, world)
    try:
        with Interruption().listening() as interruption:
            state, loader, val_loader = prepare(config, world, folder, choices)
            if config.test_only:
                evaluate_model(state.best_model(), val_loader, config, folder, state.epoch, state.step)
            else:
                if world.is_first and not config.resume:
                    for line in check_before_training(config, loader.dataset, val_loader.dataset):
                        folder.log(line)
                train(config, state, loader, val_loader, folder, interruption)
    except Interrupted as error:
        raise Interrupted(error.code - 128, "" if config.test_only else folder.describe_resume()) from None
    print(f"run folder: {folder.path}")
    if not config.test_only:
        print(f"next: {how_to_run('predict')} {shlex.quote(str(folder.path))} PHOTOS")
    world.leave()
    return folder


def train(
    config: TrainConfig,
    state: State,
    loader: Loader,
    val_loader: Loader,
    folder: RunFolder,
    interruption: Interruption,
) -> None:
    """Trains epoch by epoch; each epoch is saved before its evaluation, so that a failing evaluation does not lose it."""
    epochs = epochs_of(config, len(loader))
    agreement, left = Agreement(state.world), TimeLeft(epochs * len(loader), state.epoch * len(loader) + state.batch)
    if state.epoch >= epochs:
        folder.log(f"all {epochs} epochs are done; set a larger --epochs to continue")
    while True:
        if 0 < state.epoch != state.evaluated and state.batch == 0 and is_evaluated(config, state.epoch, epochs):
            evaluate_and_keep_best(config, state, val_loader, folder, interruption)
        if state.epoch >= epochs:
            return
        with interruption.deferred():
            summary = train_epoch(config, state, loader, folder, interruption, agreement)
            state.epoch, state.batch = state.epoch + 1, 0
            save(state, folder)
            folder.log_new_faults(loader.dataset.log)
            folder.log(f"epoch {state.epoch}/{epochs}: {summary}, {left.at(state.epoch * len(loader))}")
            if agreement.reduce(STOP if interruption.signum else CONTINUE) == STOP:
                raise Interrupted(interruption.signum or signal.SIGTERM)


def evaluate_and_keep_best(
    config: TrainConfig, state: State, loader: Loader, folder: RunFolder, interruption: Interruption
) -> None:
    """Evaluates after an epoch; training continues if that fails, unless the data set option `on_error` is "raise"."""
    raises = config.dataset_options.get("on_error") == "raise"
    value = folder.try_task(
        "evaluation",
        lambda: evaluate_model(state.best_model(), loader, config, folder, state.epoch, state.step),
        reraise=(BrokenPipeError, DataError, SharedError) if raises else (BrokenPipeError,),
    )
    state.evaluated = state.epoch
    if value is None:
        loader.restart_workers()
    with interruption.deferred():
        if value is not None and value >= state.best:  # NaN: nothing could be judged
            state.best = value
            folder.save("best.pt", state)
        folder.save("last.pt", state)


def save(state: State, folder: RunFolder) -> None:
    """Saves last.pt if the weights are finite.

    Raises:
        SharedError: A weight is not finite; the previous checkpoint is kept.
    """
    finite = torch.stack([p.detach().isfinite().all() for p in state.model.parameters()])
    if not bool(finite.all()):
        raise SharedError(
            f"weights are not finite after step {state.step}. {folder.describe_saved()}Common causes: the learning rate is "
            "too high (try a tenth of --lr), or no gradient clipping (--clip-grad-norm 10)"
        )
    folder.save("last.pt", state)


def prepare(
    config: TrainConfig, world: World, folder: RunFolder, choices: Choices | None = None
) -> tuple[State, Loader, Loader]:
    """Returns the state and both data loaders; an error here ends all processes with one message."""
    with world.fail_together():
        folder.check(config)
        changes = changed_settings(config.resume, config) if config.resume else []
        checkpoint = read(config.resume) if config.resume else None
        device = choose_device(config.device, world)
        seed_everything(config.seed)
        train_set, val_set = open_datasets(config)
        choices = choices or Choices(config)
        choose_settings(choices, Facts.of(len(train_set), normalized_objects(train_set)[0], device, world.size))
        print(choices, end="")
        with world.local_first():
            model = make_model(config, train_set, checkpoint)
        model = model.to(device)
        if config.channels_last:
            model = model.to(memory_format=torch.channels_last)
        if config.sync_bn and world.size > 1:
            synchronize_batch_norm(model, device)
        seed_everything(config.seed + world.rank)  # random layers must differ between processes
        size = model.image_size
        deferred, options = config.device_augmentation, config.augmentation_options
        with as_config_error("--augmentation-option: "):
            augment = build_transforms(config.augmentation, size, train=True, deferred=deferred, **options)
        resize = build_transforms(config.augmentation, size, train=False, **options)
        workers, workers_notice = fitting_workers(config.workers, batch_bytes(config, train_set, size))
        common: dict[str, Any] = {"workers": workers, "rank": world.rank, "world_size": world.size}
        loader = build_loader(train_set, augment, config.batch_size, train=True, seed=config.seed, **common)
        val_loader = build_loader(val_set, resize, config.batch_size, train=False, **common)
        state = make_state(config, model, len(loader), world)
        state.classes = train_set.classes
        state.apply_exif = train_set.apply_exif if config.dataset in FILE_DATASETS else None
        if checkpoint is not None:
            restore(checkpoint, str(config.resume), state)
            folder.thresholds = dict(checkpoint.get("thresholds", {}))
        elif config.start_epoch:
            state.skip_to(config.start_epoch, len(loader))
        if not config.test_only:
            folder.start(config, state)
    resumed = describe_resumed(config, state, len(loader), changes) if config.resume else None
    for notice in filter(None, [workers_notice, nothing_to_evaluate(config, val_set), resumed]):
        folder.log(notice)
    folder.log(describe(config, state, train_set, val_set, epochs_of(config, len(loader)), folder.path))
    print(priors_report(model, train_set))
    if device.type == "cuda" and not config.test_only:
        folder.log(describe_step(config, state))
    return state, loader, val_loader


def describe_resumed(config: TrainConfig, state: State, batches: int, changes: list[str]) -> str:
    """Returns the position from which a run is resumed and the changed settings, as text."""
    at = f"batch {state.batch} of {batches} of epoch {state.epoch + 1}" if state.batch else f"epoch {state.epoch}"
    return f"--resume {config.resume}: after {at}{'; changed: ' if changes else ''}{', '.join(changes)}"


def train_epoch(
    config: TrainConfig,
    state: State,
    loader: Loader,
    folder: RunFolder,
    interruption: Interruption,
    agreement: Agreement,
) -> str:
    """Trains one epoch from `state.batch` on, at most until --iterations.

    The caller defers signals, so that they take effect after a step.

    Returns:
        Mean losses, images per second and the last learning rate, as text.

    Raises:
        Interrupted: By a signal, after saving the state.
    """
    state.model.train()
    loader.set_epoch(state.epoch, state.batch)
    steps = len(loader) - state.batch
    steps = min(steps, config.iterations - state.step) if config.iterations else steps
    meter, taken = LossMeter(state.world, state.model.priors.device, folder.describe_saved), 0
    title, saved = f"epoch {state.epoch + 1}/{epochs_of(config, len(loader))}", time.perf_counter()
    bar = progress_bar(islice(loader, steps), state.world.is_first, desc=title, total=steps)
    rate = max(state.schedule.get_last_lr())
    for batch in bar:
        rate = max(state.schedule.get_last_lr())  # of this step; the step sets that of the next
        losses = train_step(config, state, batch.to(meter.device, non_blocking=True))
        meter.add(losses, state.step, batch.image_ids)
        taken, state.batch = taken + 1, loader.position
        is_due = config.save_minutes and taken < steps and time.perf_counter() - saved > 60 * config.save_minutes
        action = agreement.reduce_async(STOP if interruption.signum else SAVE if is_due else CONTINUE)
        if action or state.batch % config.print_freq == 0 or taken == steps:
            row = meter.read()
            folder.train_log.add({"epoch": state.epoch + 1, "step": state.step, "lr": rate, **row})
            bar.set_postfix(loc=f"{row['loc_loss']:.3f}", cls=f"{row['cls_loss']:.3f}", img_s=row["images_per_second"])
        if action:
            save(state, folder)
            saved = time.perf_counter()
        if action == STOP:
            raise Interrupted(interruption.signum or signal.SIGTERM)
    if taken < steps and state.world.size > 1:
        raise TrainingError(f"no image in a batch of epoch {state.epoch + 1} can be read; fix or remove the images")
    return f"{meter.epoch}, lr {rate:.3g}"
