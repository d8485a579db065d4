"""Networks of known systems that this project does not have, recognized by their names to say so."""

from __future__ import annotations

import re
from collections.abc import Iterable

from ssd.models import MODELS

_OTHERS = (
    (r"WeightSharedConvolutionalBoxPredictor.*", "TensorFlow's SSD with heads that all levels share (FPN)"),
    (r"FeatureExtractor/(?!MobilenetV[12]/).+", "TensorFlow's SSD on another backbone than MobileNetV1 and V2"),
    (r"(model/)?_feature_extractor/.+", "a detector of TensorFlow 2's Object Detection API"),
    (r"backbone\._conv_stem\.weight", "SSD on EfficientNet (lufficc's efficient_net)"),
    (r"roi_heads\..+", "a two-stage detector (torchvision's Faster, Mask or Keypoint R-CNN)"),
    (r"backbone\.fpn\..+", "a detector on a feature pyramid (torchvision's RetinaNet or FCOS)"),
)


def other_network(names: Iterable[str]) -> str | None:
    """Returns a description of a network that this project does not have, None for any other."""
    known = list(names)
    return next((words for pattern, words in _OTHERS if any(re.fullmatch(pattern, name) for name in known)), None)


def reject_other_network(names: Iterable[str], source: str) -> None:
    """Raises a ValueError if the names of weights are those of a network that this project does not have."""
    if (other := other_network(names)) is not None:
        raise ValueError(
            f"{source} holds {other}, a network that this project does not have; it has {', '.join(MODELS)}"
        )
