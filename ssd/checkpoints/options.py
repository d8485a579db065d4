"""Validates what a checkpoint says about its model: limits on sizes, and no names of other files to read."""

from __future__ import annotations

import math
from typing import Any

from ssd.config.renamed_options import MODEL_OPTIONS, renamed
from ssd.models import MODELS, model_options

_MAX_VALUES = {
    "num_classes": 100_001,
    "image_size": 2048,
    "width": 1024,
    "levels": 16,
    "candidates_per_class": 10**7,
    "max_detections": 10**6,
}
_MAX_NUMBERS = 200  # numbers in one option, such as aspect_ratios
_MAX_PRIORS = 2**25  # image_size ** 2 * numbers in aspect_ratios, which the number of priors grows with
_MAX_TEXT = 100  # characters of a string
_EXTERNAL = ("weights_backbone",)  # would be read from disk or network
_OWN = ("name", "num_classes", "preset", "image_size")


def checked_build_args(args: Any, source: str) -> dict[str, Any]:
    """Validates and returns the arguments of `build_model` in a checkpoint, with options under their current names.

    Raises:
        ValueError: Naming the checkpoint and the argument.
    """
    if not isinstance(args, dict) or not {"name", "num_classes"} <= args.keys():
        raise ValueError(f"{source}: its build_args must be a dict with name and num_classes, as this project saves it")
    args = renamed(args, MODEL_OPTIONS)
    name = args["name"]
    if not isinstance(name, str) or name not in MODELS:
        raise ValueError(f"{source}: {_short(name)} in its build_args is not a model of this project")
    known = (*_OWN, *model_options(name))
    for key, value in args.items():
        if key in _EXTERNAL:
            raise ValueError(
                f"{source}: its build_args hold {key}, which names other weights to read; a checkpoint must not. "
                "Build the model with build_model, then use load_weights"
            )
        if key not in known:
            raise ValueError(
                f"{source}: {_short(key)} in its build_args is not an option of {name}: the file was saved by another "
                "version of this project, or is damaged"
            )
        if problem := _problem_of(key, value):
            raise ValueError(f"{source}: {key} in its build_args {problem}, got {_short(value)}")
    size, ratios = args.get("image_size") or MODELS[name].image_size, _flat(args.get("aspect_ratios")) or []
    if size**2 * len(ratios) > _MAX_PRIORS:
        raise ValueError(f"{source}: {len(ratios)} aspect_ratios at image_size {size} make too many priors")
    return dict(args)


def check_classes(classes: Any, build_args: dict[str, Any] | None, source: str) -> tuple[str, ...] | None:
    """Returns the class names of a checkpoint, without the background, or None if it holds none.

    Raises:
        ValueError: Their number differs from `num_classes` in its build_args.
    """
    if not isinstance(classes, (list, tuple)) or not all(isinstance(name, str) for name in classes):
        return None
    if build_args is None:
        return tuple(classes) or None
    if classes and len(classes) + 1 != build_args["num_classes"]:
        raise ValueError(
            f"{source} is damaged: it holds {len(classes)} class names, but its num_classes of {build_args['num_classes']} "
            f"means the background and {build_args['num_classes'] - 1} classes"
        )
    return tuple(classes) or None


def check_thresholds(thresholds: Any, source: str) -> dict[str, float]:
    """Returns the score thresholds for showing detections, by class; empty if the checkpoint holds none.

    Raises:
        ValueError: They are not a dict of class name to a number in 0 .. 1.
    """
    if thresholds is None:
        return {}
    items = thresholds.items() if isinstance(thresholds, dict) else [(None, thresholds)]
    for name, value in items:
        if not isinstance(name, str) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
            raise ValueError(
                f"{source} is damaged: it must hold thresholds in 0 .. 1 by class, got {_short(thresholds)}"
            )
    return dict(thresholds)


def _problem_of(key: str, value: Any) -> str | None:
    if key in ("num_classes", "image_size") and (isinstance(value, bool) or not isinstance(value, int)):
        return "must be an integer"
    if key == "preset" and not isinstance(value, str):
        return "must be a name"
    if key in _MAX_VALUES and isinstance(value, (int, float)) and not value <= _MAX_VALUES[key]:
        return f"must be at most {_MAX_VALUES[key]}"
    numbers = _flat(value)
    if numbers is None:
        return f"must consist of numbers and short strings, at most {_MAX_NUMBERS} of them"
    for item in numbers:
        if isinstance(item, str) and len(item) > _MAX_TEXT:
            return f"must be a string of at most {_MAX_TEXT} characters"
        if isinstance(item, (int, float)) and not (abs(item) < 2**63 and math.isfinite(item)):
            return "must be finite"
    return None


def _flat(value: Any, depth: int = 3) -> list[Any] | None:
    """Returns the numbers and strings inside a value, or None if there are too many or something else is in it."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return [value]
    if not isinstance(value, (list, tuple)) or not depth or len(value) > _MAX_NUMBERS:
        return None
    out: list[Any] = []
    for item in value:
        inner = _flat(item, depth - 1)
        if inner is None or len(out) + len(inner) > _MAX_NUMBERS:
            return None
        out += inner
    return out


def _short(value: Any) -> str:
    text = repr(value) if not isinstance(value, (list, tuple, dict)) or len(value) < 20 else f"{len(value)} entries"
    return text if len(text) <= 80 else f"{text[:80]}..."
