"""The training loop: data, model, optimizer, epochs, evaluation, run folder; on one process or on many."""

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
    batch_bytes,
    choose_device,
    describe,
    make_model,
    mistakes,
    normalized_objects,
    nothing_to_evaluate,
    open_datasets,
    priors_report,
)
from ssd.engine.signals import GO_ON, SAVE, STOP, Agreement, Interrupted, Interruption
from ssd.engine.step import State, describe_step, make_state, train_step
from ssd.transforms import build_transforms

__all__ = ["State", "TrainingError", "make_state", "run", "train_epoch", "train_step"]


def run(config: TrainConfig) -> RunFolder:
    """Train and evaluate as configured; return the run folder.

    Raises:
        Interrupted: by Ctrl-C or SIGTERM, after saving where training had begun; its text says how to go on.
    """
    resolve_dataset(config)
    if config.use_deterministic_algorithms:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it cuBLAS refuses to be deterministic
        torch.use_deterministic_algorithms(True)
    if config.resume:
        config.given = None  # type: ignore[misc]  # its settings have been chosen when it began
    with mistakes():
        choices = choose_model(config)
    world = World.join(config.device, config.dist_url)
    folder = RunFolder.open(config, world)
    try:
        with Interruption().listening() as interruption:
            state, loader, val_loader = prepare(config, world, folder, choices)
            if config.test_only:
                evaluate_model(state.best_model(), val_loader, config, folder, state.epoch, state.step)
            else:
                train(config, state, loader, val_loader, folder, interruption)
    except Interrupted as error:
        raise Interrupted(error.code - 128, "" if config.test_only else folder.how_to_go_on()) from None
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
    """Run epochs; each is saved before it is evaluated, so that nothing which fails later costs it."""
    epochs = epochs_of(config, len(loader))
    agreement, left = Agreement(state.world), TimeLeft(epochs * len(loader), state.epoch * len(loader) + state.batch)
    if state.epoch >= epochs:
        folder.say(f"all {epochs} epochs are done; a larger --epochs goes on")
    while True:
        if 0 < state.epoch != state.evaluated and state.batch == 0 and is_evaluated(config, state.epoch, epochs):
            evaluate_and_keep_best(config, state, val_loader, folder, interruption)
        if state.epoch >= epochs:
            return
        with interruption.deferred():
            said = train_epoch(config, state, loader, folder, interruption, agreement)
            state.epoch, state.batch = state.epoch + 1, 0
            save(state, folder)
            rate = max(state.schedule.get_last_lr())
            folder.say_new_faults(loader.dataset.log)
            folder.say(f"epoch {state.epoch}/{epochs}: {said}, lr {rate:.3g}, {left.at(state.epoch * len(loader))}")
            if agreement.settle(STOP if interruption.signum else GO_ON) == STOP:
                raise Interrupted(interruption.signum or signal.SIGTERM)


def evaluate_and_keep_best(
    config: TrainConfig, state: State, loader: Loader, folder: RunFolder, interruption: Interruption
) -> None:
    """Evaluate the state of a whole epoch; whatever fails, training goes on, unless ``on_error`` is ``"raise"``."""
    raises = config.dataset_options.get("on_error") == "raise"
    value = folder.survive(
        "evaluation",
        lambda: evaluate_model(state.best_model(), loader, config, folder, state.epoch, state.step),
        but=(BrokenPipeError, DataError, SharedError) if raises else (BrokenPipeError,),
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
    """Save the last checkpoint, if its weights are finite.

    Raises:
        SharedError: they are not; the checkpoint before is kept.
    """
    finite = torch.stack([p.detach().isfinite().all() for p in state.model.parameters()])
    if not bool(finite.all()):
        raise SharedError(
            f"weights are not finite after step {state.step}. {folder.saved_before()}Usual causes: a learning rate too "
            "high (try --lr a tenth), or no limit on gradients (--clip-grad-norm 10)"
        )
    folder.save("last.pt", state)


def prepare(
    config: TrainConfig, world: World, folder: RunFolder, choices: Choices | None = None
) -> tuple[State, Loader, Loader]:
    """Data sets, model and all that a checkpoint holds; a mistake met here ends all processes with one message."""
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
        seed_everything(config.seed + world.rank)  # what a network draws in training differs between processes
        size = model.image_size
        deferred, options = config.device_augmentation, config.augmentation_options
        with mistakes("--augmentation-option: "):
            augment = build_transforms(config.augmentation, size, train=True, deferred=deferred, **options)
        plain = build_transforms(config.augmentation, size, train=False, **options)
        workers, said = fitting_workers(config.workers, batch_bytes(config, train_set, size))
        share: dict[str, Any] = {"workers": workers, "rank": world.rank, "world_size": world.size}
        loader = build_loader(train_set, augment, config.batch_size, train=True, seed=config.seed, **share)
        val_loader = build_loader(val_set, plain, config.batch_size, train=False, **share)
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
    for note in filter(None, [said, nothing_to_evaluate(config, val_set), resumed]):
        folder.say(note)
    folder.say(describe(config, state, train_set, val_set, epochs_of(config, len(loader)), folder.path))
    print(priors_report(model, train_set))
    if device.type == "cuda" and not config.test_only:
        folder.say(describe_step(config, state))
    return state, loader, val_loader


def describe_resumed(config: TrainConfig, state: State, batches: int, changes: list[str]) -> str:
    """Says where a resumed run goes on, and with which settings changed."""
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
    """Run one epoch from `state.batch` on, or what --iterations leaves of it; return its losses and pace in words.

    The caller defers signals, which are acted on after a step.

    Raises:
        Interrupted: by a signal; the state is saved.
    """
    state.model.train()
    loader.set_epoch(state.epoch, state.batch)
    steps = len(loader) - state.batch
    steps = min(steps, config.iterations - state.step) if config.iterations else steps
    meter, taken = LossMeter(state.world, state.model.priors.device, folder.saved_before), 0
    title, saved = f"epoch {state.epoch + 1}/{epochs_of(config, len(loader))}", time.perf_counter()
    bar = progress_bar(islice(loader, steps), state.world.is_first, desc=title, total=steps)
    for batch in bar:
        losses = train_step(config, state, batch.to(meter.device, non_blocking=True))
        meter.add(losses, state.step, batch.image_ids)
        taken, state.batch = taken + 1, loader.position
        is_due = config.save_minutes and taken < steps and time.perf_counter() - saved > 60 * config.save_minutes
        action = agreement.reach(STOP if interruption.signum else SAVE if is_due else GO_ON)
        if action or state.batch % config.print_freq == 0 or taken == steps:
            row = meter.read()
            rate = max(state.schedule.get_last_lr())
            folder.train_log.add({"epoch": state.epoch + 1, "step": state.step, "lr": rate, **row})
            bar.set_postfix(loc=f"{row['loc_loss']:.3f}", cls=f"{row['cls_loss']:.3f}", img_s=row["images_per_second"])
        if action:
            save(state, folder)
            saved = time.perf_counter()
        if action == STOP:
            raise Interrupted(interruption.signum or signal.SIGTERM)
    if taken < steps and state.world.size > 1:
        raise TrainingError(
            f"a batch of epoch {state.epoch + 1} held no image that can be read; mend or remove the images"
        )
    return str(meter.epoch)
