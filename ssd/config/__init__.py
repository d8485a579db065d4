"""The configuration of a training run: fields, files and checks. Importing it does not import torch."""

from ssd.config.config_file import load_config
from ssd.config.setting_checks import check_folder, did_you_mean, flag
from ssd.config.train_config import TrainConfig, flag_of, torchvision_defaults
from ssd.config.validation import check_settings

__all__ = [
    "TrainConfig",
    "check_folder",
    "check_settings",
    "did_you_mean",
    "flag",
    "flag_of",
    "load_config",
    "torchvision_defaults",
]
