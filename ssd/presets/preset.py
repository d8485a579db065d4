"""The rules around a network: priors, matching, loss, post-processing and input. systems.py defines the known systems.

A preset does not include the network, its weights, or prior sizes for other input sizes.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin, get_type_hints

from ssd.priors import BoxOrder, Clip
from ssd.priors.sizes import STEPS

VGG_MEAN_RGB = (123 / 255, 117 / 255, 104 / 255)
BYTE_STD = (1 / 255, 1 / 255, 1 / 255)  # undoes the scaling to 0..1: the network input is 0..255 minus the mean


@dataclass(frozen=True)
class Preset:
    """Rules of one SSD system.

    Args:
        name: Name of the system.
        prior_sizes: "voc", "coco", "linear", "geometric", name of a system, or a list of sizes in pixels, one more than
            there are levels (see `ssd.priors.sizes.resolve_sizes`).
        steps: Distances between the centers of each level in pixels, or name of a system (see
            `ssd.priors.sizes.resolve_steps`); None uses image size / cells.
        prior_order: Order of the boxes in a cell (see `PriorConfig`).
        clip: How priors are clamped to the image (see `PriorConfig`).
        match_iou_threshold, rule, match_equal: Matching (see `ssd_ops.match_priors`).
        variances: Variances of the box coding, for center and size.
        neg_pos_ratio, normalizer, min_negatives, mining: Loss (see `ssd_ops.multibox_loss`).
        box_loss: Localization loss of the positive priors: "smooth_l1" of the deltas, or 1 - "giou", "diou" or "ciou" of
            the boxes.
        class_target: What the class score of a positive prior is trained to be: 1 ("hard"), or the IoU of its predicted box
            with the ground truth ("iou"), so that scores rank boxes by how well they fit (see `ssd.models.iou_target`).
        loc_weight: Weight of the localization loss.
        scores: What the scores are of the logits: "softmax" over all classes, or "sigmoid" of each (for weights that were
            trained so elsewhere; the loss here needs "softmax").
        score_threshold, nms_iou_threshold, suppress_equal, candidates_per_class, max_detections, clip_boxes, multi_label,
            min_size: Post-processing (see `ssd_ops.detect`); candidates_per_class None keeps all priors, max_detections
            None sets no limit.
        soft_nms_sigma: Soft-NMS with this sigma in place of NMS (see `ssd_ops.soft_nms`), which finds more of the objects
            that overlap others; None is NMS. It needs neither nms_iou_threshold nor candidates_per_class.
        mean, std: Mean and standard deviation of the input in 0..1, in the order of `channels`.
        channels: Order of the color channels of the network input; images are always passed as RGB.

    Raises:
        ValueError: A field has an invalid value.
    """

    name: str
    prior_sizes: str | tuple[float, ...] = "voc"
    steps: str | tuple[float, ...] | None = "ssd"
    prior_order: BoxOrder = "pairs"
    clip: Clip = "none"
    match_iou_threshold: float = 0.5
    rule: Literal["greedy", "last", "none"] = "greedy"
    match_equal: bool = True
    variances: tuple[float, float] = (0.1, 0.2)
    neg_pos_ratio: float = 3.0
    normalizer: Literal["batch", "image", "batch_size"] = "batch"
    min_negatives: int = 0
    mining: Literal["image", "batch"] = "image"
    box_loss: Literal["smooth_l1", "giou", "diou", "ciou"] = "smooth_l1"
    class_target: Literal["hard", "iou"] = "hard"
    loc_weight: float = 1.0
    scores: Literal["softmax", "sigmoid"] = "softmax"
    score_threshold: float = 0.01
    nms_iou_threshold: float = 0.45
    suppress_equal: bool = False
    candidates_per_class: int | None = 400
    max_detections: int | None = 200
    clip_boxes: bool = True
    multi_label: bool = True
    min_size: float = 0.0
    soft_nms_sigma: float | None = None
    mean: tuple[float, float, float] = VGG_MEAN_RGB
    std: tuple[float, float, float] = BYTE_STD
    channels: Literal["rgb", "bgr"] = "rgb"

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, list):  # from a configuration file
                object.__setattr__(self, field.name, tuple(value))
        _check(self)

    def replace(self, **changes: Any) -> Preset:
        """Returns a copy with some fields changed."""
        return dataclasses.replace(self, **changes)


_CHOICES = {name: get_args(hint) for name, hint in get_type_hints(Preset).items() if get_origin(hint) is Literal}


def _check(preset: Preset) -> None:
    """Raises ValueError with the field, the expected and the given value."""
    for name in ("match_iou_threshold", "nms_iou_threshold", "score_threshold"):
        value = getattr(preset, name)
        if not 0 <= value <= 1:  # false for NaN too
            raise ValueError(f"{name} must be in [0, 1], got {value}")
    for name in ("candidates_per_class", "max_detections"):
        if getattr(preset, name) is not None and getattr(preset, name) < 1:
            raise ValueError(f"{name} must be at least 1, or None for no limit, got {getattr(preset, name)}")
    for name, kinds in _CHOICES.items():
        if getattr(preset, name) not in kinds:
            raise ValueError(f"{name} must be one of {', '.join(kinds)}, got {getattr(preset, name)!r}")
    _check_combinations(preset)
    if isinstance(preset.steps, str) and preset.steps not in STEPS:
        raise ValueError(f"steps must be distances in pixels, None or one of {', '.join(STEPS)}, got {preset.steps!r}")
    for name, length in (("mean", 3), ("std", 3), ("variances", 2)):
        value = getattr(preset, name)
        if not isinstance(value, Sequence) or len(value) != length or not all(math.isfinite(v) for v in value):
            raise ValueError(f"{name} must be {length} finite numbers, got {value}")
    for name in ("std", "variances"):
        if min(getattr(preset, name)) <= 0:
            raise ValueError(f"{name} must be positive, got {getattr(preset, name)}")
    for name in ("neg_pos_ratio", "min_negatives", "loc_weight", "min_size"):
        if not getattr(preset, name) >= 0:
            raise ValueError(f"{name} must not be negative, got {getattr(preset, name)}")


def _check_combinations(preset: Preset) -> None:
    if preset.soft_nms_sigma is not None:
        if not (preset.soft_nms_sigma > 0 and math.isfinite(preset.soft_nms_sigma)):
            raise ValueError(f"soft_nms_sigma must be a positive number, or None for NMS, got {preset.soft_nms_sigma}")
        if not preset.multi_label:
            raise ValueError("multi_label must be True if soft_nms_sigma is set: Soft-NMS treats each class by itself")
    if preset.scores == "sigmoid" and not preset.multi_label:
        raise ValueError("multi_label must be True if scores is sigmoid, which scores each class by itself")
    if preset.scores == "sigmoid" and preset.class_target != "hard":
        raise ValueError("class_target must be hard if scores is sigmoid, which cannot be trained, got 'iou'")
    if preset.mining == "batch" and preset.normalizer == "image":
        raise ValueError("normalizer must be batch or batch_size if mining is batch, got 'image'")
