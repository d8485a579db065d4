"""The configuration of a run: fields, files, command line and checks. Importing it does not import torch."""

from ssd.config.train_config import TrainConfig, check_folder, flag, flag_of, load_config, near, torchvision_defaults

__all__ = ["TrainConfig", "check_folder", "flag", "flag_of", "load_config", "near", "torchvision_defaults"]
