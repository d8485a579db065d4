"""Translates renamed options in files written by earlier versions. Standard library only.

This keeps an old config.json or checkpoint readable; the command line and Python accept the current names only.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_EQUAL = {">": False, ">=": True}
# old name -> (new name, new value by old value)
MODEL_OPTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "match_threshold": ("match_iou_threshold", {}),
    "nms_threshold": ("nms_iou_threshold", {}),
    "suppress_at": ("suppress_equal", _EQUAL),
    "positive_at": ("match_equal", _EQUAL),
    "classes": ("multi_label", {"all": True, "best": False}),
}
DATASET_OPTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "faults": ("on_error", {"refuse": "raise"}),
    "units": ("units", {"shares": "normalized"}),
}


def renamed(options: Mapping[str, Any], names: Mapping[str, tuple[str, dict[str, Any]]]) -> dict[str, Any]:
    """Returns the options under their current names and values, in the same order; unknown values stay unchanged."""
    result: dict[str, Any] = {}
    for key, value in options.items():
        name, values = names.get(key, (key, {}))
        result[name] = values.get(value, value) if isinstance(value, str) else value
    return result


def renamed_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings of a configuration file with all renamed options translated."""
    tables = {"model_options": MODEL_OPTIONS, "dataset_options": DATASET_OPTIONS}
    return {
        key: renamed(value, tables[key]) if key in tables and isinstance(value, dict) else value
        for key, value in settings.items()
    }
