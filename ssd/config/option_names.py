"""Names of the options of models, data sets and augmentation, so that an unknown one is reported at once.

The options themselves are parameters of functions whose modules import torch. Standard library only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ssd.common.errors import ConfigError, unknown
from ssd.config.train_config import TrainConfig, flag_of

_RULES = (
    *("prior_sizes", "steps", "prior_order", "clip", "match_iou_threshold", "rule", "match_equal", "variances"),
    *("neg_pos_ratio", "normalizer", "min_negatives", "mining", "box_loss", "class_target", "loc_weight", "scores"),
    *("score_threshold", "nms_iou_threshold", "suppress_equal", "candidates_per_class", "max_detections", "clip_boxes"),
    *("multi_label", "min_size", "soft_nms_sigma", "mean", "std", "channels"),
)
_BACKBONE = ("aspect_ratios", "weights_backbone", "trainable_layers")
_NETWORKS = {  # prefix of the model's name -> options of its network
    "ssd_tiny": ("aspect_ratios", "width", "levels"),
    "ssd300_vgg16": (*_BACKBONE, "norm"),
    "ssd512_vgg16": (*_BACKBONE, "norm"),
    "ssd300_resnet": (*_BACKBONE, "freeze_bn"),
    "ssd300_mobilenet_v1": ("aspect_ratios", "trainable_layers", "freeze_bn", "layout"),
    "ssdlite300_squeezenet1_1": _BACKBONE,
    "ssdlite320_mobilenet_v2": (
        *(*_BACKBONE, "freeze_bn", "min_stride", "width_mult", "extra_channels", "head_width", "fpn_width", "layout"),
    ),
    "ssdlite320_mobilenet_v3_large": (*_BACKBONE, "freeze_bn", "reduced_tail", "extra_channels"),
    "timm:": ("aspect_ratios", "weights_backbone", "min_stride", "extra_channels", "fpn_width", "heads"),
}
# Number of stages that --trainable-backbone-layers counts.
_STAGES = {
    "ssd300_vgg16": 5,
    "ssd512_vgg16": 5,
    "ssd300_resnet": 4,
    "ssd300_mobilenet_v1": 5,
    "ssdlite300_squeezenet1_1": 4,
    "ssdlite320_mobilenet_v2": 7,
    "ssdlite320_mobilenet_v3_large": 6,
}
_JSON_ITEMS = ("classes", "empty", "on_error", "apply_exif")
DATASET_OPTIONS: dict[str, tuple[str, ...]] = {
    "shapes": ("size", "image_size", "max_objects", "seed", "cache"),
    "voc": ("classes", "difficult", "coordinates", "empty", "on_error", "apply_exif"),
    "coco": ("annotations", "images", "classes", "labels", "crowd", "empty", "on_error", "apply_exif"),
    "yolo": ("classes", "empty", "on_error", "allow_outside", "apply_exif"),
    "csv": ("annotations", "images", "classes", "units", "empty", "on_error", "apply_exif"),
    "shards": ("on_error",),
    **dict.fromkeys(("datumaro", "supervisely", "labelme"), _JSON_ITEMS),
}
AUGMENTATION_OPTIONS = (
    *("mosaic", "copy_paste", "shortest", "longest", "photometric", "jitter", "zoom", "crop", "hflip", "extra", "cut"),
    *("min_size", "fill", "antialias"),
)
# Arguments of `ssd.models.build_model` that have flags of their own.
_ADVICE = {
    "name": "use --model",
    "preset": "use --preset",
    "image_size": "use --image-size",
    "num_classes": "the number of classes comes from the data set",
}


def network_options(model: str) -> tuple[str, ...]:
    """Returns the options of a model besides those of its preset; of all models if it is unknown."""
    own = [names for prefix, names in _NETWORKS.items() if model.startswith(prefix)]
    return own[0] if own else tuple(dict.fromkeys(name for names in _NETWORKS.values() for name in names))


def model_options(model: str) -> tuple[str, ...]:
    """Returns all options of a model."""
    return (*network_options(model), *_RULES)


def stages(model: str) -> int | None:
    """Returns the maximum of --trainable-backbone-layers for a model, or None if it has no such stages."""
    return next((count for prefix, count in _STAGES.items() if model.startswith(prefix)), None)


def check_option_names(config: TrainConfig) -> None:
    """Raises ConfigError for an option that the model, the data set or the augmentation does not have."""
    is_chosen = config.given is not None and "model" not in config.given  # from the data and the machine, later
    model = "any model" if is_chosen else config.model
    for name in config.model_options:
        if name in _ADVICE:
            raise ConfigError(f"--model-option {name}: {_ADVICE[name]}, got {config.model_options[name]!r}")
    _check("model_options", config.model_options, model, model_options(model))
    known = DATASET_OPTIONS.get(config.dataset)
    if known is not None:  # the options of module:function are those of its code
        _check("dataset_options", config.dataset_options, f"the data set {config.dataset!r}", known)
    _check("augmentation_options", config.augmentation_options, "the augmentation", AUGMENTATION_OPTIONS)
    if config.trainable_backbone_layers is not None and not is_chosen:
        _check_stages(config)


def _check(field: str, options: Mapping[str, Any], owner: str, known: Iterable[str]) -> None:
    for option in options:
        if option not in known:
            raise ConfigError(f"{flag_of(field)}: {unknown(f'option of {owner}', option, known)}")


def _check_stages(config: TrainConfig) -> None:
    count = stages(config.model)
    if count is None:
        raise ConfigError(
            f"--trainable-backbone-layers is not possible with {config.model}; --freeze features freezes the pretrained "
            "part of a backbone, and --freeze backbone everything but the heads"
        )
    if not 0 <= int(config.trainable_backbone_layers or 0) <= count:
        raise ConfigError(
            f"--trainable-backbone-layers must be in 0..{count} for {config.model}, got "
            f"{config.trainable_backbone_layers}"
        )
