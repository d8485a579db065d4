"""Preparation of a run: data, settings chosen for them, model and state."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import torch

from ssd.common.errors import ConfigError
from ssd.config import TrainConfig
from ssd.config.choices import FILE_DATASETS
from ssd.config.resume_settings import changed_settings, recorded_settings
from ssd.data import DataError, Loader, build_loader
from ssd.data.loading.device_decoder import DeviceDecoder, why_not_decoded
from ssd.data.loading.samples import EncodedTransform
from ssd.data.loading.shared_memory import fitting_workers
from ssd.engine.auto_settings import Choices, Facts, choose_settings
from ssd.engine.checkpoint import read, restore, seed_everything
from ssd.engine.distributed import World, synchronize_batch_norm
from ssd.engine.epochs import check_start_epoch, epochs_of
from ssd.engine.evaluation import metric_of
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
from ssd.engine.step import State, describe_step, make_state
from ssd.transforms import build_transforms

_MIXED_EPOCHS = (
    0.75  # fraction of the epochs with mosaics and pasted objects; the last ones train on images as they are
)


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
        common_train = {**common, "seed": config.seed, "decoder": build_decoder(config, augment, device)}
        loader = build_loader(train_set, augment, config.batch_size, train=True, **common_train)
        loader.mix_until(math.ceil(_MIXED_EPOCHS * epochs_of(config, len(loader))))
        val_loader = build_loader(val_set, resize, config.batch_size, train=False, **common)
        state = make_state(config, model, len(loader), world)
        state.classes = train_set.classes
        state.apply_exif = train_set.apply_exif if config.dataset in FILE_DATASETS else None
        if checkpoint is not None:
            resume(config, checkpoint, state, folder, changes)
        elif config.start_epoch:
            check_start_epoch(config, len(loader))
            state.skip_to(config.start_epoch, len(loader))
        if not config.test_only:
            folder.start(config, state)
    resumed = describe_resumed(config, state, len(loader), changes) if config.resume else None
    for notice in filter(None, [workers_notice, nothing_to_evaluate(config, val_set), resumed]):
        folder.log(notice)
    folder.log(describe(config, state, train_set, val_set, folder.path))
    print(priors_report(model, train_set, config.fit_priors))
    if device.type == "cuda" and not config.test_only:
        folder.log(describe_step(config, state))
    return state, loader, val_loader


def build_decoder(config: TrainConfig, transforms: object, device: torch.device) -> DeviceDecoder | None:
    """Returns the decoder of --device-jpeg, or None without it.

    Raises:
        ConfigError: The device has none, or the transforms need decoded images.
    """
    if not config.device_jpeg:
        return None
    reason = why_not_decoded(device)
    if reason is None and not (isinstance(transforms, EncodedTransform) and transforms.accepts_encoded(mixes=False)):
        reason = "the augmentation resizes images before the crop (multiscale, shortest), which the workers do"
    if reason is not None:
        raise ConfigError(f"--device-jpeg is not possible: {reason}")
    return DeviceDecoder(device)


def resume(
    config: TrainConfig, checkpoint: dict[str, Any], state: State, folder: RunFolder, changes: list[str]
) -> None:
    """Restores a run; best.pt is selected anew if the evaluation has changed, which is added to the changes."""
    restore(checkpoint, str(config.resume), state, counts_steps=bool(config.iterations))
    folder.thresholds = dict(checkpoint.get("thresholds", {}))
    if is_evaluated_otherwise(config):
        changes.append("the evaluation, so best.pt is selected anew")
        state.best, state.evaluations_since_best = -1.0, 0


def is_evaluated_otherwise(config: TrainConfig) -> bool:
    """Returns whether the results of a resumed run so far are of another metric or split."""
    recorded = recorded_settings(str(config.resume)) or {}
    names = ("dataset", "data_path", "eval_metric", "val_split")
    before = dataclasses.replace(config, **{name: recorded[name] for name in names if name in recorded})
    if before.val_split != config.val_split:
        return True
    try:
        return metric_of(before) != metric_of(config)
    except DataError:  # packed data that is no longer there
        return False


def describe_resumed(config: TrainConfig, state: State, batches: int, changes: list[str]) -> str:
    """Returns the position from which a run is resumed and the changed settings, as text."""
    at = f"batch {state.batch} of {batches} of epoch {state.epoch + 1}" if state.batch else f"epoch {state.epoch}"
    return f"--resume {config.resume}: after {at}{'; changed: ' if changes else ''}{', '.join(changes)}"
