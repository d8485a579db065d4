"""Loads and exports weights of detectors in the layouts of other systems."""

from ssd.checkpoints.build import build_from_weights
from ssd.checkpoints.classes import reorder_classes
from ssd.checkpoints.layouts import LAYOUTS
from ssd.checkpoints.load import export_weights, load_weights
from ssd.checkpoints.report import LoadReport, WeightsError

__all__ = [
    "LAYOUTS",
    "LoadReport",
    "WeightsError",
    "build_from_weights",
    "export_weights",
    "load_weights",
    "reorder_classes",
]
