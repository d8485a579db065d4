"""What a checkpoint may say about its own model: bounded, and naming nothing else that would be read."""

from __future__ import annotations

import math
from typing import Any

from ssd.config.renamed_options import MODEL_OPTIONS, renamed
from ssd.models import MODELS, model_options

_LARGEST = {
    "num_classes": 100_001,
    "image_size": 2048,
    "width": 1024,
    "levels": 16,
    "candidates_per_class": 10**7,
    "max_detections": 10**6,
}
_NUMBERS = 200  # in one option, such as aspect_ratios
_PRIORS = 2**25  # image_size ** 2 * numbers in aspect_ratios, which the number of priors grows with
_LONGEST = 100  # characters of a text
_ELSEWHERE = ("weights_backbone",)  # what would be read from the disk or the network
_OWN = ("name", "num_classes", "preset", "image_size")


def checked_build_args(args: Any, source: str) -> dict[str, Any]:
    """Returns the arguments of build_model that a checkpoint holds, checked, with options under today's names.

    Raises:
        ValueError: Naming the checkpoint and the argument.
    """
    if not isinstance(args, dict) or not {"name", "num_classes"} <= args.keys():
        raise ValueError(f"{source}: its build_args must be a dict with name and num_classes, as this project saves it")
    args = renamed(args, MODEL_OPTIONS)
    name = args["name"]
    if not isinstance(name, str) or name not in MODELS:
        raise ValueError(f"{source}: its build_args name no model of this project but {_short(name)}")
    known = (*_OWN, *model_options(name))
    for key, value in args.items():
        if key in _ELSEWHERE:
            raise ValueError(
                f"{source}: its build_args hold {key}, which a checkpoint must not: it names other weights to read. Build "
                "the model by build_model, then load_weights"
            )
        if key not in known:
            raise ValueError(
                f"{source}: its build_args hold {_short(key)}, which is no option of {name}: another version of this "
                "project saved it, or it is damaged"
            )
        if fault := _fault_of(key, value):
            raise ValueError(f"{source}: {key} in its build_args {fault}, got {_short(value)}")
    size, ratios = args.get("image_size") or MODELS[name].image_size, _flat(args.get("aspect_ratios")) or []
    if size**2 * len(ratios) > _PRIORS:
        raise ValueError(f"{source}: {len(ratios)} aspect_ratios at image_size {size} make too many priors")
    return args


def check_classes(classes: Any, build_args: dict[str, Any] | None, source: str) -> tuple[str, ...] | None:
    """The class names of a checkpoint, without the background, or None if it holds none.

    Raises:
        ValueError: They are not as many as its build_args say.
    """
    if not isinstance(classes, (list, tuple)) or not all(isinstance(name, str) for name in classes):
        return None
    if build_args is None:
        return tuple(classes) or None
    if classes and len(classes) + 1 != build_args["num_classes"]:
        raise ValueError(
            f"{source} holds {len(classes)} class names, but its num_classes, {build_args['num_classes']}, counts the "
            f"background and {build_args['num_classes'] - 1} more: it is damaged"
        )
    return tuple(classes) or None


def check_thresholds(thresholds: Any, source: str) -> dict[str, float]:
    """Returns the scores from which detections are shown, by class; empty where the checkpoint holds none.

    Raises:
        ValueError: They are not numbers in 0 .. 1 by name.
    """
    if thresholds is None:
        return {}
    held = thresholds.items() if isinstance(thresholds, dict) else [(None, thresholds)]
    for name, value in held:
        if not isinstance(name, str) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
            raise ValueError(
                f"{source} must hold thresholds in 0 .. 1 by class, got {_short(thresholds)}: it is damaged"
            )
    return dict(thresholds)


def _fault_of(key: str, value: Any) -> str | None:
    if key in ("num_classes", "image_size") and (isinstance(value, bool) or not isinstance(value, int)):
        return "must be a whole number"
    if key == "preset" and not isinstance(value, str):
        return "must be a name"
    if key in _LARGEST and isinstance(value, (int, float)) and not value <= _LARGEST[key]:
        return f"must be at most {_LARGEST[key]}"
    numbers = _flat(value)
    if numbers is None:
        return f"must be plain numbers and short texts, at most {_NUMBERS} of them"
    for item in numbers:
        if isinstance(item, str) and len(item) > _LONGEST:
            return f"must be a text of at most {_LONGEST} characters"
        if isinstance(item, (int, float)) and not (abs(item) < 2**63 and math.isfinite(item)):
            return "must be finite"
    return None


def _flat(value: Any, depth: int = 3) -> list[Any] | None:
    """The numbers and texts inside a value, or None if there are too many or anything else is in it."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return [value]
    if not isinstance(value, (list, tuple)) or not depth or len(value) > _NUMBERS:
        return None
    found: list[Any] = []
    for item in value:
        inner = _flat(item, depth - 1)
        if inner is None or len(found) + len(inner) > _NUMBERS:
            return None
        found += inner
    return found


def _short(value: Any) -> str:
    text = repr(value) if not isinstance(value, (list, tuple, dict)) or len(value) < 20 else f"{len(value)} entries"
    return text if len(text) <= 80 else f"{text[:80]}..."
