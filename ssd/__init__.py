"""SSD, a single-shot object detector, on the compiled ops of ssd_ops.

The names below are loaded when first used: `import ssd` alone costs nothing, so that command lines answer `--help` and
configuration errors before torch is imported.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ssd.checkpoints import LoadReport, WeightsError, build_from_weights, export_weights, load_weights
    from ssd.inference.detector import Detector, load
    from ssd.inference.engine import InferenceEngine
    from ssd.inference.result import Result
    from ssd.models import MODELS, SSD, build_model, model_options
    from ssd.models.loss import MultiBoxLoss
    from ssd.presets import PRESETS, Preset, get_preset
    from ssd.priors import PriorConfig, make_priors
    from ssd.torchvision_patch import accelerate, restore

_HOME = {
    "Detector": "ssd.inference.detector",
    "InferenceEngine": "ssd.inference.engine",
    "LoadReport": "ssd.checkpoints",
    "MODELS": "ssd.models",
    "PRESETS": "ssd.presets",
    "SSD": "ssd.models",
    "MultiBoxLoss": "ssd.models.loss",
    "Preset": "ssd.presets",
    "PriorConfig": "ssd.priors",
    "WeightsError": "ssd.checkpoints",
    "Result": "ssd.inference.result",
    "accelerate": "ssd.torchvision_patch",
    "build_from_weights": "ssd.checkpoints",
    "build_model": "ssd.models",
    "export_weights": "ssd.checkpoints",
    "get_preset": "ssd.presets",
    "load": "ssd.inference.detector",
    "load_weights": "ssd.checkpoints",
    "make_priors": "ssd.priors",
    "model_options": "ssd.models",
    "restore": "ssd.torchvision_patch",
}

__all__ = [
    "MODELS",
    "PRESETS",
    "SSD",
    "Detector",
    "InferenceEngine",
    "LoadReport",
    "MultiBoxLoss",
    "Preset",
    "PriorConfig",
    "Result",
    "WeightsError",
    "accelerate",
    "build_from_weights",
    "build_model",
    "export_weights",
    "get_preset",
    "load",
    "load_weights",
    "make_priors",
    "model_options",
    "restore",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'ssd' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
