"""What each known SSD system does around the network, as data: priors, matching, loss, post-process, input.

A preset holds rules only. The network, its prior sizes for other inputs and its weights are chosen by the model.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ssd.priors import Clip
from ssd.suggest import unknown

VGG_MEAN_RGB = (123 / 255, 117 / 255, 104 / 255)
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
BYTE_STD = (1 / 255, 1 / 255, 1 / 255)  # undoes the scaling to 0..1: the network sees 0..255 minus the mean


@dataclass(frozen=True)
class Preset:
    """Rules of one SSD system.

    Args:
        name: the system.
        prior_sizes: "voc", "coco", "linear", "geometric", or sizes in pixels, one more than levels (see
            prior_sizes.resolve_sizes).
        clip: what of the priors is clamped to the image (see PriorConfig).
        match_threshold, rule, positive_at: matching (see ssd_ops.match_priors).
        variances: of the box code, for centre and size.
        neg_pos_ratio, normalizer, min_negatives, mining: loss (see ssd_ops.multibox_loss).
        loc_weight: factor of the localisation loss.
        score_threshold, nms_threshold, suppress_at, candidates_per_class, max_detections, clip_boxes, classes, min_size:
            post-process (see ssd_ops.detect).
        mean, std: of the input in 0..1, in the order of `channels`.
        channels: order of the colours that the network sees; images are always given as RGB.
    """

    name: str
    prior_sizes: str | tuple[float, ...] = "voc"
    clip: Clip = "none"
    match_threshold: float = 0.5
    rule: Literal["greedy", "last", "none"] = "greedy"
    positive_at: Literal[">=", ">"] = ">="
    variances: tuple[float, float] = (0.1, 0.2)
    neg_pos_ratio: float = 3.0
    normalizer: Literal["batch", "image", "batch_size"] = "batch"
    min_negatives: int = 0
    mining: Literal["image", "batch"] = "image"
    loc_weight: float = 1.0
    score_threshold: float = 0.01
    nms_threshold: float = 0.45
    suppress_at: Literal[">", ">="] = ">"
    candidates_per_class: int = 400
    max_detections: int = 200
    clip_boxes: bool = True
    classes: Literal["all", "best"] = "all"
    min_size: float = 0.0
    mean: tuple[float, float, float] = VGG_MEAN_RGB
    std: tuple[float, float, float] = BYTE_STD
    channels: Literal["rgb", "bgr"] = "rgb"

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, list):  # as a configuration file gives it
                object.__setattr__(self, field.name, tuple(value))
        _check(self)

    def replace(self, **changes: Any) -> Preset:
        """Returns a copy with some fields changed."""
        return dataclasses.replace(self, **changes)


def _check(preset: Preset) -> None:
    """Raises ValueError naming the field, what it must be and what came."""
    for name in ("match_threshold", "nms_threshold", "score_threshold"):
        value = getattr(preset, name)
        if not 0 <= value <= 1:  # false for NaN too
            raise ValueError(f"{name} must lie in [0, 1], got {value}")
    for name in ("candidates_per_class", "max_detections"):
        if getattr(preset, name) < 1:
            raise ValueError(f"{name} must be at least 1, got {getattr(preset, name)}")
    for name, kinds in (
        ("rule", ("greedy", "last", "none")),
        ("positive_at", (">=", ">")),
        ("normalizer", ("batch", "image", "batch_size")),
        ("mining", ("image", "batch")),
        ("suppress_at", (">", ">=")),
        ("classes", ("all", "best")),
        ("channels", ("rgb", "bgr")),
        ("clip", ("none", "wh", "all", "corners")),
    ):
        if getattr(preset, name) not in kinds:
            raise ValueError(f"{name} must be one of {', '.join(kinds)}, got {getattr(preset, name)!r}")
    if preset.mining == "batch" and preset.normalizer == "image":
        raise ValueError("normalizer must be batch or batch_size where mining is batch, got 'image'")
    for name, length in (("mean", 3), ("std", 3), ("variances", 2)):
        value = getattr(preset, name)
        if not isinstance(value, Sequence) or len(value) != length or not all(math.isfinite(v) for v in value):
            raise ValueError(f"{name} must hold {length} finite numbers, got {value}")
    for name in ("std", "variances"):
        if min(getattr(preset, name)) <= 0:
            raise ValueError(f"{name} must be positive, got {getattr(preset, name)}")
    for name in ("neg_pos_ratio", "min_negatives", "loc_weight", "min_size"):
        if not getattr(preset, name) >= 0:
            raise ValueError(f"{name} must not be negative, got {getattr(preset, name)}")


PRESETS: dict[str, Preset] = {
    # torchvision.models.detection.ssd300_vgg16; its mean is given to five digits
    "torchvision": Preset(
        "torchvision",
        prior_sizes="coco",
        clip="wh",
        rule="last",
        mean=(0.48235, 0.45882, 0.40784),
        std=(1.0 / 255.0,) * 3,
    ),
    # weiliu89/caffe, examples/ssd/ssd_pascal.py
    "caffe": Preset("caffe", clip_boxes=False, mean=VGG_MEAN_RGB[::-1], channels="bgr"),
    # amdegroot/ssd.pytorch; without its fault of taking COCO sizes for any number of classes but 21. It keeps 200 boxes
    # of # each class and its limit of 200 for the image has no effect; here the limit holds.
    "amdegroot": Preset("amdegroot", clip="all", rule="last", candidates_per_class=200, clip_boxes=False),
}

# What a family of networks changes: its weights decide the input it expects, its authors the post-process.
_SSDLITE_POST: dict[str, Any] = {
    "score_threshold": 0.001,
    "nms_threshold": 0.55,
    "candidates_per_class": 300,
    "max_detections": 300,
}
_MOBILENET: dict[str, Any] = {"prior_sizes": "linear", "mean": IMAGENET_MEAN, "std": IMAGENET_STD, "channels": "rgb"}
FAMILIES: dict[str, dict[str, dict[str, Any]]] = {
    "vgg": {},
    "mobilenet_v2": {"*": _MOBILENET, "torchvision": {**_MOBILENET, **_SSDLITE_POST}},
    "tiny": {"*": {"prior_sizes": "geometric", "mean": (0.5,) * 3, "std": (0.25,) * 3, "channels": "rgb"}},
}


def get_preset(preset: str | Preset, family: str = "vgg", overrides: Mapping[str, Any] | None = None) -> Preset:
    """Finds a preset by name, fits it to a family of networks, and applies the user's own values over it.

    Raises:
        ValueError: no preset of that name (names the near one), or a value that cannot be meant.
    """
    if isinstance(preset, str):
        if preset not in PRESETS:
            raise ValueError(unknown("preset", preset, PRESETS))
        changes = FAMILIES.get(family, {})
        preset = PRESETS[preset].replace(**changes.get(preset, changes.get("*", {})))
    return preset.replace(**dict(overrides or {}))
