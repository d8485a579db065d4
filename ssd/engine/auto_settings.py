"""Chooses settings for the data and the machine that neither flags nor a configuration file give.

They are intended for the user's own data: some minutes of training for a few hundred images on two CPU cores, and longer
training for more data or a GPU. The run prints each choice with its reason.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ssd.common.cores import usable_cores
from ssd.config import TrainConfig, flag_of
from ssd.models import MODELS

PRETRAINED_MODEL = "ssdlite320_mobilenet_v2"
# From random weights, plain convolutions with BatchNorm fit a few hundred images far faster than depthwise ones.
SCRATCH_MODEL, SCRATCH_WIDTH = "ssd_tiny", 32
_CACHED_WEIGHTS = {  # torchvision's names -> its files
    "MobileNet_V2_Weights.IMAGENET1K_V2": "mobilenet_v2-7ebf99e0.pth",
    "MobileNet_V2_Weights.IMAGENET1K_V1": "mobilenet_v2-b0353104.pth",
}
# Training images to process in all, by device and by input size. Intended for less than 15 minutes on two CPU cores; at 160
# pixels two cores of an AMD EPYC trained on 35 images per second.
_IMAGES_SEEN = {"cpu": 8000, "cuda": 24000}
_SCRATCH_IMAGES_SEEN = {160: 26000, 224: 16000, 320: 8000, 416: 5000}
_CROWDED = 6  # objects per image from which a larger input pays off, as for blood cells
# Annotators skip objects in crowded images, and long training memorizes the gaps: on BCCD the AP50 of all six trainings
# in benchmarks/results/h100-training.json fell after two thirds of their epochs.
_CROWDED_LENGTH = 2 / 3
_MAX_EPOCHS = 200


@dataclass(frozen=True)
class Facts:
    """Properties of the data and the machine that the choices depend on.

    Args:
        images: Number of training images.
        sides: float32, square root of the normalized area of each object.
        device: Type of the training device, "cpu" or "cuda".
        cores: Number of CPU cores per training process.
        processes: Number of training processes.
    """

    images: int
    sides: Tensor  # [M]
    device: str
    cores: int
    processes: int = 1

    @classmethod
    def of(cls, images: int, boxes: Iterable[Tensor], device: torch.device, processes: int = 1) -> Facts:
        """Collects the facts of a data set (normalized boxes `[G, 4]` of each image) and this machine."""
        packed = torch.cat([torch.zeros(0, 4), *boxes])
        sides = (packed[:, 2:] - packed[:, :2]).prod(dim=1).clamp(min=0).sqrt()
        return cls(images, sides, device.type, max(1, usable_cores() // processes), processes)


class Choices:
    """Sets settings of a configuration that were not given, and records the reasons."""

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        self.given = config.given if config.given is not None else frozenset(vars(config))
        self.reasons: list[tuple[str, Any, str]] = []

    def set(self, name: str, value: Any, reason: str) -> None:
        """Sets a field that was not given."""
        if name not in self.given:
            setattr(self.config, name, value)
            self.reasons.append((name, value, reason))

    def option(self, field: str, reason: str, **values: Any) -> None:
        """Sets keys of an option field (model_options, ...) that were not given."""
        own: dict[str, Any] = getattr(self.config, field)
        new = {key: value for key, value in values.items() if key not in own}
        if new:
            setattr(self.config, field, {**new, **own})
            self.reasons.append((field, ", ".join(f"{k}={v}" for k, v in new.items()), reason))

    def __str__(self) -> str:
        if not self.reasons:
            return ""
        lines = [
            f"  {flag_of(name)}{'' if value is True else f' {value}'}: {reason}" for name, value, reason in self.reasons
        ]
        title = "settings chosen for this data and machine (override them by flags, or use --defaults torchvision)"
        return "\n".join([title, *lines, ""])


def choose_model(config: TrainConfig) -> Choices:
    """Chooses the network before the data is read: that of the given weights, else a small one that trains anywhere."""
    choices = Choices(config)
    if config.given is None:
        return choices
    if "model" not in config.given:
        _choose_by_weights(choices)
    if config.model == PRETRAINED_MODEL and not config.weights and (cached := _cached_backbone()):
        choices.set("weights_backbone", cached, "pretrained on ImageNet, downloaded before")
    return choices


def _choose_by_weights(choices: Choices) -> None:
    """Chooses the network of the given weights, else a small one."""
    config = choices.config
    if config.weights:
        from ssd.checkpoints.networks import network_of_file

        network = network_of_file(config.weights)
        name = network.pop("name")
        choices.set("model", name, f"the network of {config.weights}")
        choices.set("preset", network.pop("preset", config.preset), "these weights were trained with it")
        choices.set("image_size", network.pop("image_size", None), "input size of these weights")
        network.pop("num_classes", None)
        choices.option("model_options", "as in these weights", **network)
    elif config.weights_backbone:
        from ssd.models.backbone_weights import model_of_backbone

        choices.set("model", model_of_backbone(config.weights_backbone), f"the backbone of {config.weights_backbone}")
    elif _cached_backbone():
        choices.set("model", PRETRAINED_MODEL, "its pretrained weights were downloaded before")
    else:
        choices.set(
            "model",
            SCRATCH_MODEL,
            f"trains well from random weights; for photos --weights-backbone {[*_CACHED_WEIGHTS][1]} (14 MB download) is "
            "better",
        )


def choose_settings(choices: Choices, facts: Facts) -> None:
    """Chooses all other settings once the data is known."""
    config = choices.config
    if config.given is None:
        return
    pretrained = bool(config.weights_backbone or config.weights)
    _choose_network(choices, facts, pretrained)
    _choose_optimizer(choices)
    _choose_length(choices, facts)
    _choose_machine(choices, facts)


def _choose_network(choices: Choices, facts: Facts, pretrained: bool) -> None:
    config = choices.config
    if not config.weights:
        if config.model == SCRATCH_MODEL:
            if config.image_size is None:
                choices.set("image_size", *_scratch_size(facts))
            choices.option("model_options", "enough channels for photographs", width=SCRATCH_WIDTH)
            if not _is_crowded(facts):
                choices.option("model_options", "more priors are assigned to each object", match_iou_threshold=0.4)
        elif config.model == PRETRAINED_MODEL:
            small = _small_side(facts) * (config.image_size or MODELS[config.model].image_size)
            if config.image_size is None and small < 10:
                size = 512 if facts.device == "cuda" else 416
                choices.set("image_size", size, f"a tenth of the objects are below {small:.0f} px at the usual 320")
            choices.option(
                "model_options",
                "a finer level and a feature pyramid (FPN), for objects of all sizes",
                min_stride=8,
                fpn_width=96,
            )
            if pretrained and config.trainable_backbone_layers is None:
                choices.option("model_options", "freezes the first pretrained stages", trainable_layers=4)
        choices.option("model_options", "every object gets at least one prior", rule="greedy")
        if not {"prior_sizes", "fit_priors"} & {*config.model_options, *choices.given}:
            choices.set("fit_priors", True, "prior sizes fit the objects")
    if "data_augmentation" not in choices.given:
        choices.set("data_augmentation", "ssdlite", "crops and flips; stronger augmentation needs longer training")
        choices.option(
            "augmentation_options", "mild, for short training", crop="mild", photometric="mild", cut="ignore"
        )


def _choose_optimizer(choices: Choices) -> None:
    config = choices.config
    family = MODELS[config.model].family
    rates = {"vgg": 0.0002, "resnet": 0.001} if config.opt == "adamw" else {"vgg": 0.001}
    default = 0.002 if config.opt == "adamw" else 0.01
    choices.set("lr", rates.get(family, default), f"for {config.opt} and this network")
    if config.weights_backbone and not config.weights:
        choices.set("backbone_lr_factor", 0.05, "pretrained features need small updates")
    for given, scheduler in (("lr_steps", "multisteplr"), ("lr_step_size", "steplr"), ("lr_power", "polynomial")):
        if given in choices.given:
            choices.set("lr_scheduler", scheduler, f"because {flag_of(given)} was given")


def _choose_length(choices: Choices, facts: Facts) -> None:
    config = choices.config
    images = max(1, facts.images // facts.processes)  # images of each process
    if images < 32:
        batch, reason = max(2, images // 4), f"{images} images"
    elif images < 2000:
        batch, reason = (16, "small images") if (config.image_size or 300) < 300 else (8, "many steps from few images")
    else:
        batch, reason = 32 if facts.device == "cuda" else 16, f"{images} images"
    choices.set("batch_size", batch, reason)
    total = _IMAGES_SEEN["cuda" if facts.device == "cuda" else "cpu"]
    if config.model == SCRATCH_MODEL and facts.device == "cpu":
        total = _SCRATCH_IMAGES_SEEN.get(config.image_size or 0, total)
    if _is_crowded(facts):
        total = round(total * _CROWDED_LENGTH)
    epochs = max(12, min(_MAX_EPOCHS, round(total / max(1, facts.images))))
    if not config.iterations:
        choices.set("epochs", epochs, f"{epochs * facts.images} training images in total, for a {facts.device} device")
    steps = config.iterations or config.epochs * max(1, images // config.batch_size)
    choices.set("warmup_iters", min(100, steps // 10), "a tenth of the steps, at most 100")
    choices.set("eval_every", max(1, config.epochs // 5), "five evaluations")


def _choose_machine(choices: Choices, facts: Facts) -> None:
    config = choices.config
    choices.set("workers", max(1, min(8, facts.cores - 1)), f"{facts.cores} cores")
    choices.set("channels_last", True, "faster convolutions on CPUs and GPUs")
    if facts.device == "cuda" and MODELS[config.model].family in ("vgg", "resnet"):
        choices.set("amp", True, "mixed precision, faster on a GPU")


def _scratch_size(facts: Facts) -> tuple[int, str]:
    """Returns the input size for training from random weights and the reason; a small one allows longer training."""
    small = _small_side(facts)
    size = next((size for size in _SCRATCH_IMAGES_SEEN if small * size >= 16), 416)
    if _is_crowded(facts) and size < 320:
        return 320, f"{len(facts.sides) / facts.images:.0f} objects per image"
    return size, f"a tenth of the objects are below {small * size:.0f} px at this size"


def _is_crowded(facts: Facts) -> bool:
    return len(facts.sides) > _CROWDED * facts.images


def _small_side(facts: Facts) -> float:
    """Returns the 10th percentile of the object sizes, as a fraction of the image; 1 without objects."""
    if not len(facts.sides):
        return 1.0
    ordered = facts.sides.sort().values  # quantile() supports at most 16 million values
    return float(ordered[len(ordered) // 10])


def _cached_backbone() -> str | None:
    """Returns the name of pretrained weights in torchvision's download cache, or None; downloads nothing."""
    files = Path(torch.hub.get_dir()) / "checkpoints"
    return next((name for name, file in _CACHED_WEIGHTS.items() if (files / file).is_file()), None)
