"""Checks of a whole configuration before torch is imported. Standard library only."""

from __future__ import annotations

import dataclasses

from ssd.common.errors import ConfigError
from ssd.common.packages import is_installed
from ssd.config.choices import CHOICES, FILE_DATASETS
from ssd.config.option_names import check_option_names
from ssd.config.setting_checks import check_folder, check_number, check_type, did_you_mean, flag
from ssd.config.train_config import TrainConfig
from ssd.weight_files.names import checkpoint_exists, is_torchvision_name


def check_settings(config: TrainConfig) -> None:
    """Raises ConfigError for an invalid value, or for values that exclude each other."""
    for f in dataclasses.fields(config):
        check_type(flag(f.name), str(f.type), getattr(config, f.name))
        check_number(f.name, getattr(config, f.name))
    for name, known in CHOICES.items():
        value = getattr(config, name)
        is_free = (name == "dataset" and ":" in value) or (name == "model" and value.startswith("timm:"))
        if value not in known and not is_free:
            hint = did_you_mean(value, known)
            raise ConfigError(f"{flag(name)} must be one of {', '.join(known)}, got {value!r}{hint}")
    if config.dataset in FILE_DATASETS and config.data_path is None:
        raise ConfigError(f"--data-path is required for --dataset {config.dataset}: the folder of the data set")
    if config.dataset == "shapes" and config.data_path is not None:
        raise ConfigError(f"--dataset shapes is generated and does not read --data-path {config.data_path}: omit one")
    check_folder(config.data_path)
    for name in ("weights", "weights_backbone", "resume"):
        source = getattr(config, name)
        if config.resume and name != "resume":
            continue  # the checkpoint contains the weights
        if source == "timm" and name == "weights_backbone" and config.model.startswith("timm:"):
            continue
        if source and not is_torchvision_name(source) and not checkpoint_exists(source):
            raise ConfigError(f"{flag(name)} {source}: no such file")
    if config.test_only and not (config.resume or config.weights):
        raise ConfigError("--test-only needs --resume (the run folder or checkpoint to evaluate) or --weights")
    check_option_names(config)
    _check_needed(config)
    if 0 < config.label_unlabeled < config.ignore_unlabeled:
        raise ConfigError(
            f"--label-unlabeled must be at least --ignore-unlabeled {config.ignore_unlabeled:g}, got "
            f"{config.label_unlabeled:g}: detections with lower scores are ignored"
        )
    if config.tensorboard == "on" and not is_installed("tensorboard"):
        raise ConfigError("--tensorboard on needs the package tensorboard: pip install tensorboard")
    if config.accumulate > config.batch_size:
        raise ConfigError(f"--accumulate must be at most --batch-size {config.batch_size}, got {config.accumulate}")


def _check_needed(config: TrainConfig) -> None:
    # Settings that have no effect without another one.
    for name in ("ignore_unlabeled", "label_unlabeled"):
        if getattr(config, name) and not config.ema_decay:
            raise ConfigError(
                f"{flag(name)} needs the EMA of the weights, whose detections it uses: set --ema-decay 0.99"
            )
    if config.device_jpeg and not config.device_augmentation:
        raise ConfigError("--device-jpeg needs --device-augmentation, which renders what the device has decoded")
