"""Builds detectors by name."""

from __future__ import annotations

import dataclasses
import inspect
import operator
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from ssd.common.errors import unknown
from ssd.config.option_types import check_option_types
from ssd.models.detector import SSD
from ssd.models.mobilenet_v1 import ssd300_mobilenet_v1
from ssd.models.mobilenet_v2 import ssdlite320_mobilenet_v2
from ssd.models.mobilenet_v3 import ssdlite320_mobilenet_v3_large
from ssd.models.resnet import BUILDERS as RESNETS
from ssd.models.squeezenet import ssdlite300_squeezenet1_1
from ssd.models.timm_backbone import PREFIX, ssd_timm
from ssd.models.tiny import ssd_tiny
from ssd.models.vgg import ssd300_vgg16, ssd512_vgg16
from ssd.presets import PRESETS, Preset, get_preset

__all__ = ["MODELS", "SSD", "build_model", "model_options"]


class ModelEntry(NamedTuple):
    """A builder, its family of presets, and its default input size.

    `with_weights` holds the options that the builder sets by default if `weights_backbone` is given.
    """

    builder: Callable[..., SSD]
    family: str
    image_size: int
    with_weights: dict[str, Any] = {}  # noqa: RUF012  never changed


class _Models(dict[str, ModelEntry]):
    """All models by name; "timm:NAME" is one for each backbone of timm."""

    def __contains__(self, name: object) -> bool:
        return super().__contains__(name) or (isinstance(name, str) and name.startswith(PREFIX))

    def __missing__(self, name: str) -> ModelEntry:
        if name not in self:
            raise KeyError(name)
        return ModelEntry(partial(ssd_timm, name.removeprefix(PREFIX)), "mobilenet_v2", 320)


MODELS: dict[str, ModelEntry] = _Models()
MODELS |= {
    "ssd300_vgg16": ModelEntry(ssd300_vgg16, "vgg", 300, {"trainable_layers": 4}),
    "ssd512_vgg16": ModelEntry(ssd512_vgg16, "vgg", 512, {"trainable_layers": 4}),
    **{name: ModelEntry(builder, "resnet", 300) for name, builder in RESNETS.items()},
    "ssd300_mobilenet_v1": ModelEntry(ssd300_mobilenet_v1, "mobilenet_v1", 300),
    "ssdlite300_squeezenet1_1": ModelEntry(ssdlite300_squeezenet1_1, "squeezenet", 300),
    "ssdlite320_mobilenet_v2": ModelEntry(ssdlite320_mobilenet_v2, "mobilenet_v2", 320, {"freeze_bn": True}),
    "ssdlite320_mobilenet_v3_large": ModelEntry(
        ssdlite320_mobilenet_v3_large, "mobilenet_v3", 320, {"reduced_tail": False}
    ),
    "ssd_tiny": ModelEntry(ssd_tiny, "tiny", 160),
}

_RULES = tuple(field.name for field in dataclasses.fields(Preset) if field.name != "name")


def model_options(name: str) -> tuple[str, ...]:
    """Returns the options that `build_model` accepts for a model: those of its network and the fields of `Preset`."""
    if name not in MODELS:
        raise ValueError(unknown("model", name, MODELS))
    parameters = inspect.signature(MODELS[name].builder).parameters.values()
    return (*(p.name for p in parameters if p.kind is p.KEYWORD_ONLY), *_RULES)


def build_model(
    name: str, num_classes: int, *, preset: str | Preset = "torchvision", image_size: int | None = None, **options: Any
) -> SSD:
    """Builds a detector by name.

    Args:
        name: One of `MODELS`, or "timm:" and the name of a backbone of timm.
        num_classes: Number of object classes plus one for the background.
        preset: Rules of a known SSD system, by name, or a custom `Preset`.
        image_size: Side of the network's square input in pixels; None: the default of the model.
        options: Options of the network (see `model_options` and the builder), and fields of `Preset` to change, such as
            `rule="greedy"`.

    Returns:
        The model, in training mode. Its `build_args` are the arguments that build the same network again, for a
        checkpoint: `build_model(**args)`, then `load_state_dict`; they do not include the backbone's weights.

    Raises:
        ValueError: Unknown name, preset or option (the closest one is suggested), or an invalid value.
    """
    known = model_options(name)
    for key in options:
        if key not in known:
            raise ValueError(unknown(f"option of {name}", key, known))
    num_classes = _whole("num_classes", num_classes)
    if num_classes < 2:
        raise ValueError(
            "num_classes must be at least 2: it counts the background (class 0) and the object classes, so one object "
            f"class needs num_classes 2; got {num_classes!r}"
        )
    entry = MODELS[name]
    size = entry.image_size if image_size is None else _whole("image_size", image_size)
    if size < 1:
        raise ValueError(f"image_size must be a positive number of pixels, got {image_size!r}")
    rules = {key: value for key, value in options.items() if key in _RULES}
    network = {key: value for key, value in options.items() if key not in _RULES}
    check_option_types(entry.builder, network)
    check_option_types(Preset, rules)
    model = entry.builder(num_classes, size, get_preset(preset, entry.family, rules), **network)
    model.build_args = _build_args(name, num_classes, size, model, network)
    return model


def _whole(name: str, value: Any) -> int:
    """Converts any integer type, also NumPy's, to int; rejects bool."""
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool):
        raise ValueError(f"{name} must be an integer, got {value!r}")
    return number


def _build_args(name: str, num_classes: int, image_size: int, model: SSD, network: dict[str, Any]) -> dict[str, Any]:
    """Returns arguments that build the same network with the same rules again, as values that JSON can store."""
    args: dict[str, Any] = {"name": name, "num_classes": num_classes, "image_size": image_size}
    rules = dataclasses.asdict(model.preset)
    system = rules.pop("name")
    args["preset"] = system if system in PRESETS else "torchvision"  # all of its rules follow
    network = dict(network)
    if network.pop("weights_backbone", None) is not None:
        # without the weights, the options that they set by default must be explicit
        for option, value in MODELS[name].with_weights.items():
            if network.get(option) is None:
                network[option] = value
    return {**args, **rules, **network}
