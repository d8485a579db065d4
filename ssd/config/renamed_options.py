"""Options of files that were written before an option was renamed, under today's names. Standard library only.

A config.json or a checkpoint stays readable this way; a command line and Python know today's names alone.
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
DATASET_OPTIONS: dict[str, tuple[str, dict[str, Any]]] = {"faults": ("on_error", {"refuse": "raise"})}


def renamed(options: Mapping[str, Any], names: Mapping[str, tuple[str, dict[str, Any]]]) -> dict[str, Any]:
    """Returns options with today's names and values, in their order; a value that no version wrote stays as it is."""
    result: dict[str, Any] = {}
    for key, value in options.items():
        name, values = names.get(key, (key, {}))
        result[name] = values.get(value, value) if isinstance(value, str) else value
    return result


def renamed_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings of a configuration file with the options in them under today's names."""
    tables = {"model_options": MODEL_OPTIONS, "dataset_options": DATASET_OPTIONS}
    return {
        key: renamed(value, tables[key]) if key in tables and isinstance(value, dict) else value
        for key, value in settings.items()
    }
