"""What the programs accept as a checkpoint: a file, a run folder, or a name of torchvision's weights; imports no torch."""

from __future__ import annotations

import os
import re

from ssd.common.errors import ConfigError

# Torchvision's released weights of the detectors that this project has.
DETECTORS = ("SSD300_VGG16_Weights.COCO_V1", "SSDLite320_MobileNet_V3_Large_Weights.COCO_V1")
_NAME = re.compile(r"\w+_Weights\.\w+")


def is_torchvision_name(source: str) -> bool:
    """Returns whether this is a full name of torchvision's weights, such as "VGG16_Weights.IMAGENET1K_FEATURES"."""
    return _NAME.fullmatch(source) is not None


def full_name(source: str, model: str | None = None) -> str:
    """Returns the full name of torchvision's weights for a short one; a file or any other text is returned unchanged.

    Short names of "SSD300_VGG16_Weights.COCO_V1" are "SSD300_VGG16.COCO_V1" and, for a known model, "COCO_V1".

    Args:
        source: Name, file or folder.
        model: Name of the model that the weights are for, if known.

    Raises:
        ConfigError: The short name belongs to several models.
    """
    if is_torchvision_name(source) or os.path.exists(source):
        return source
    names = [name for name in DETECTORS if source in (name.replace("_Weights", ""), name.partition(".")[2])]
    if model is not None:
        names = [name for name in names if name.lower().startswith(f"{model}_weights.")] or names
    if len(names) > 1:
        raise ConfigError(f"{source} is a name of the weights of several models: pass {' or '.join(names)}")
    return names[0] if names else source


def checkpoint_exists(source: str) -> bool:
    """Returns whether a file or folder exists, or the checkpoint of TensorFlow with this prefix."""
    return os.path.exists(source) or os.path.isfile(f"{source}.index")


def checked_checkpoint(source: str) -> str:
    """Returns the full name of torchvision's weights, or the file or folder if it exists.

    Raises:
        ConfigError: It does not exist, or the name is ambiguous.
    """
    name = full_name(source)
    if is_torchvision_name(name) or checkpoint_exists(name):
        return name
    raise ConfigError(f"checkpoint {source} does not exist; torchvision's weights are {', '.join(DETECTORS)}")
