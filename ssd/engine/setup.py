"""Setup of a run: device, data sets, model, and a report of how well the priors match the objects."""

from __future__ import annotations

import contextlib
import dataclasses
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ssd.checkpoints import load_weights
from ssd.checkpoints.options import checked_build_args
from ssd.checkpoints.reading import Checkpoint, Source, read_checkpoint
from ssd.checkpoints.report import LEARNED
from ssd.common.errors import ConfigError, DownloadError
from ssd.config import TrainConfig
from ssd.config.choices import TRAINING_ONLY
from ssd.config.option_names import check_option_names
from ssd.data import DetectionDataset
from ssd.data.splits import open_splits
from ssd.data_check.encodings import find_encoding_errors
from ssd.engine.distributed import World
from ssd.engine.epochs import epochs_of
from ssd.engine.optim import base_rate, freeze
from ssd.engine.step import State
from ssd.models import SSD, build_model
from ssd.presets import Preset
from ssd.priors.coverage import prior_coverage
from ssd.priors.fit import fit_prior_sizes
from ssd.weight_files.load import few

_MAX_IMAGES = 20_000  # maximum number of images whose objects are compared with the priors


def choose_device(name: str, world: World | None = None) -> torch.device:
    """Returns the device with a name; `auto` is a GPU if there is one. Each process of a world has its own GPU."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and world is not None and world.size > 1:
        name = f"cuda:{world.local_rank}"
    try:
        device = torch.device(name)
        torch.empty(0, device=device).tolist()  # the meta device has no values
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"--device {name}: {str(error).splitlines()[0]}") from error
    return device


def open_datasets(config: TrainConfig) -> tuple[DetectionDataset, DetectionDataset]:
    """Opens the training and evaluation splits and prints a summary of each."""
    train_set, val_set = open_splits(
        config.dataset,
        config.data_path,
        config.train_split,
        config.val_split,
        config.val_share,
        config.dataset_options,
        TRAINING_ONLY,
    )
    if train_set.classes != val_set.classes:
        raise ConfigError(
            f"the splits have different classes: {few(train_set.classes)} in {config.train_split}, "
            f"{few(val_set.classes)} in {config.val_split}; name those of both with --dataset-option classes=NAME,NAME"
        )
    for dataset in (train_set, val_set):
        print(f"{'warning: ' if dataset.log.counts else ''}{dataset.summary()}")
        dataset.log.new_entries()  # the summary contains them
    if not config.test_only and not train_set.annotations.trainable_counts().any():
        reasons = [f"; {fault}" for fault in find_encoding_errors(train_set, train_set.name, fast=True)]
        raise ConfigError(
            f"--train-split {config.train_split}: none of its {len(train_set)} images has an object to learn from (ignored "
            f"objects do not count); see above for what was skipped{''.join(reasons)}"
        )
    return train_set, val_set


def make_model(config: TrainConfig, dataset: DetectionDataset, checkpoint: Mapping[str, Any] | None = None) -> SSD:
    """Builds the model, with pretrained weights and fitted priors if configured.

    Args:
        config: Configuration of the run.
        dataset: Training set, which determines the classes.
        checkpoint: Checkpoint to resume from; the model is then rebuilt as it was, without reading pretrained weights.

    Raises:
        ConfigError: An option or a weight file is invalid or does not match the model.
    """
    if checkpoint is not None:
        return rebuild_model(config, dataset, checkpoint["build_args"])
    options = dict(config.model_options)
    check_option_names(config)  # again: the model may have been chosen since
    if config.weights_backbone is not None:
        options["weights_backbone"] = config.weights_backbone
    if config.trainable_backbone_layers is not None:
        options["trainable_layers"] = config.trainable_backbone_layers
    classes, size = len(dataset.classes) + 1, config.image_size
    weights = None if config.weights is None else _read_weights(config)
    if weights is not None and weights.build_args is not None:
        learned = _learned_options(weights.build_args, fits_priors=config.fit_priors)
        learned_size = learned.pop("image_size")
        size = learned_size if size is None else size
        options = {**learned, **options}
        print(f"network and priors are those of {weights.source}")
    with as_config_error():
        model = build_model(config.model, classes, preset=config.preset, image_size=size, **options)
        if not config.test_only:
            model.criterion.check_trainable()
        if config.fit_priors:
            boxes, labels = normalized_objects(dataset)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about sizes that the search tries and rejects
                threshold = model.preset.match_iou_threshold
                sizes = fit_prior_sizes(model.prior_config, boxes, labels, iou_threshold=threshold)
            print(f"prior sizes fitted to {dataset.name}: {', '.join(f'{s:g}' for s in sizes)} px at the input size")
            options["prior_sizes"] = sizes
            model = build_model(config.model, classes, preset=config.preset, image_size=size, **options)
    if weights is not None:
        start_from(model, weights, dataset.classes, is_trained=config.test_only)
    freeze(config, model)
    return model


def _read_weights(config: TrainConfig) -> Checkpoint:
    """Reads --weights; a checkpoint of this project must be of the configured model."""
    with as_config_error(f"--weights {config.weights}: "):
        weights = read_checkpoint(str(config.weights))
    name = config.model if weights.build_args is None else weights.build_args["name"]
    if name != config.model:
        raise ConfigError(f"--weights {config.weights} is of {name}, not {config.model}; use --model {name}")
    return weights


def _learned_options(build_args: Mapping[str, Any], *, fits_priors: bool) -> dict[str, Any]:
    """Returns the options that weights depend on: the network and the priors, but not loss and post-processing.

    Prior sizes are excluded if they are fitted again.
    """
    rules = {field.name for field in dataclasses.fields(Preset)} - set(LEARNED)
    excluded = {*rules, "name", "preset", "num_classes", "trainable_layers", "freeze_bn"}
    excluded |= {"prior_sizes"} if fits_priors else set()
    return {"image_size": None, **{key: value for key, value in build_args.items() if key not in excluded}}


def rebuild_model(config: TrainConfig, dataset: DetectionDataset, build_args: Mapping[str, Any]) -> SSD:
    """Rebuilds the model of a checkpoint; raises ConfigError if the configuration differs from it."""
    with as_config_error():
        build_args = checked_build_args(build_args, f"--resume {config.resume}")
    configured = {
        "name": config.model,
        "preset": config.preset,
        "image_size": config.image_size,
        **config.model_options,
    }
    for name, value in configured.items():
        if value is not None and name in build_args and build_args[name] != value:
            raise ConfigError(
                f"--resume {config.resume} does not match the configuration: it was trained with {name} "
                f"{build_args[name]!r}, got {value!r}"
            )
    with as_config_error(f"--resume {config.resume}: "):
        model = build_model(**{**build_args, "num_classes": len(dataset.classes) + 1})
    freeze(config, model)
    return model


def start_from(model: SSD, source: Source, classes: Sequence[str] | None = None, *, is_trained: bool = False) -> None:
    """Loads the weights of a whole detector, matching classes by name, and prints a report.

    A model to evaluate without training (`is_trained`) must get weights for all its classes.
    """
    where = source.source if isinstance(source, Checkpoint) else source
    with as_config_error(f"--weights {where}: "), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the report contains the same
        report = load_weights(model, source, classes=classes)
    print(report)
    if is_trained and (report.new_heads or report.new_classes or report.kept):
        unknown = few(report.new_classes or classes or ())
        raise ConfigError(
            f"--test-only --weights {where}: the weights do not have the classes {unknown} of the data; evaluate on data "
            "with the same classes, or train first"
        )


@contextlib.contextmanager
def as_config_error(where: str = "") -> Iterator[None]:
    """Turns errors about options, weights and downloads into ConfigError, with `where` before the message."""
    try:
        yield
    except (ValueError, TypeError, FileNotFoundError, DownloadError) as error:
        raise ConfigError(f"{where}{error}") from error


def normalized_objects(dataset: DetectionDataset) -> tuple[list[Tensor], list[Tensor]]:
    """Returns boxes `[M, 4]` (xyxy, normalized) and labels `[M]` of objects that are not ignored, in lists of one tensor.

    If there are very many images, evenly spaced ones are used: the IoUs of millions of objects with priors take minutes.
    """
    boxes, labels = dataset.annotations.normalized_objects(_MAX_IMAGES)
    return [torch.from_numpy(boxes)], [torch.from_numpy(labels)]


def priors_report(model: SSD, dataset: DetectionDataset, fitted: bool) -> str:
    """Returns how many objects a prior matches, with advice if they are few; `fitted`: prior sizes were fitted to them."""
    boxes, labels = normalized_objects(dataset)
    coverage = prior_coverage(model.priors.cpu(), boxes, labels, dataset.classes, model.preset.match_iou_threshold)
    advice, flag = coverage.advice(0.8, model.image_size, fitted), "--image-size" if fitted else "--fit-priors"
    return f"{coverage}\nwarning: {advice} ({flag})" if advice else str(coverage)


def batch_bytes(config: TrainConfig, dataset: DetectionDataset, side: int) -> int:
    """Returns the size of a batch in bytes; the maximum if --device-augmentation keeps the images' own sizes."""
    pixels = side * side
    if config.device_augmentation and len(dataset):
        pixels = int(dataset.annotations.sizes.prod(axis=1).max())
    return 3 * pixels * min(config.batch_size, len(dataset))


def nothing_to_evaluate(config: TrainConfig, dataset: DetectionDataset) -> str | None:
    """Returns a notice if no object of the evaluation split counts, so that AP is undefined; else None."""
    if any(not bool(dataset.target(i)["ignore"].all()) for i in range(len(dataset))):
        return None
    return (
        f"--val-split {config.val_split}: none of its {len(dataset)} images has an object to evaluate, so AP is undefined "
        "and no best.pt is saved; use last.pt"
    )


def describe(
    config: TrainConfig, state: State, train_set: DetectionDataset, val_set: DetectionDataset, folder: Path
) -> str:
    """Returns a line that summarizes the run."""
    model, world = state.model, state.world
    epochs = epochs_of(config, state.steps_per_epoch, state.epoch, state.step - state.batch)
    weights = sum(p.numel() for p in model.parameters()) / 1e6
    processes = f"{world.size} processes, {config.batch_size} images per step each" if world.size > 1 else "one process"
    task = f"epochs {state.epoch + 1} to {epochs}" if state.epoch < epochs else f"all {epochs} epochs done"
    task += f", {config.opt}, learning rate {base_rate(config, world.size):g}"
    return (
        f"{config.model}: {weights:.2f} M parameters, {len(model.priors)} priors, input size {model.image_size}; "
        f"{len(train_set)} training and {len(val_set)} evaluation images; {'evaluation' if config.test_only else task} "
        f"on {model.priors.device} ({processes}); run folder {folder}"
    )
