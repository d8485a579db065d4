"""SSD, a single-shot object detector, on the compiled ops of ssd_ops."""

from __future__ import annotations

from ssd.loss import MultiBoxLoss
from ssd.models import MODELS, SSD, build_model, model_options
from ssd.presets import PRESETS, Preset, get_preset
from ssd.priors import PriorConfig, make_priors

__all__ = [
    "MODELS",
    "PRESETS",
    "SSD",
    "MultiBoxLoss",
    "Preset",
    "PriorConfig",
    "build_model",
    "get_preset",
    "make_priors",
    "model_options",
]
