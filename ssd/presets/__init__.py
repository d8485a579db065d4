"""Presets: the rules around a network (priors, matching, loss, post-processing, input) of each known SSD system."""

from ssd.presets.preset import Preset
from ssd.presets.systems import PRESETS, get_preset

__all__ = ["PRESETS", "Preset", "get_preset"]
