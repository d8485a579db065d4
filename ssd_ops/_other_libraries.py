"""NMS functions of other libraries that do not call torchvision's, on these ops; `install` replaces them."""

from __future__ import annotations

import importlib.machinery
import sys
from collections.abc import Callable, Sequence
from functools import wraps
from importlib.abc import MetaPathFinder
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from ssd_ops.suppression import batched_nms, nms

Function = Callable[..., Any]
Replace = Callable[[Any, str, Any], None]  # owner, name of its attribute, new value


def _ultralytics(original: Function) -> Function:
    @wraps(original)
    def ultralytics_nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
        return nms(boxes, scores, iou_threshold)

    return ultralytics_nms


def _supervision(original: Function) -> Function:
    """Takes arrays [N, 5 or 6] of xyxy, score and class, and returns a mask [N] of the kept ones; ties go to the last."""

    @wraps(original)
    def box_non_max_suppression(predictions: Any, iou_threshold: float = 0.5, *rest: Any, **options: Any) -> Any:
        metric = options.get("overlap_metric", rest[0] if rest else "IOU")
        if (
            not 0 <= iou_threshold <= 1
            or str(getattr(metric, "value", metric)).lower() != "iou"
            or not len(predictions)
        ):
            return original(predictions, iou_threshold, *rest, **options)
        rows = torch.from_numpy(predictions[::-1].copy()).double()
        classes = rows[:, 5] if rows.shape[1] > 5 else rows.new_zeros(len(rows))
        kept = batched_nms(rows[:, :4], rows[:, 4], classes, iou_threshold)
        mask = torch.zeros(len(rows), dtype=torch.bool)
        mask[len(rows) - 1 - kept] = True
        return mask.numpy()

    return box_non_max_suppression


# Module -> (path of the function in it, what makes the new one). detectron2's helpers call torchvision.ops.boxes, and so
# do those of rfdetr, sahi, effdet and transformers.
_HELPERS: dict[str, tuple[str, Callable[[Function], Function]]] = {
    "ultralytics.utils.nms": ("TorchNMS.nms", _ultralytics),
    "supervision.detection.utils.iou_and_nms": ("box_non_max_suppression", _supervision),
}


def replace_helpers(replace: Replace, module: ModuleType) -> list[str]:
    """Replaces the NMS function of a module, if it has one; returns its full name."""
    path, make = _HELPERS[module.__name__]
    *parents, name = path.split(".")
    owner: Any = module
    for parent in parents:
        owner = getattr(owner, parent, None)
    original = getattr(owner, name, None)
    if original is None:  # another version of the library
        return []
    made = make(original)
    replace(owner, name, staticmethod(made) if isinstance(owner, type) else made)
    return [f"{module.__name__}.{path}"]


def loaded_helpers() -> list[ModuleType]:
    """Returns the modules with an NMS function that are imported already."""
    return [sys.modules[name] for name in _HELPERS if name in sys.modules]


class ImportHook(MetaPathFinder):
    """Replaces the NMS functions of libraries that are imported later, right after their modules ran."""

    def __init__(self, replace_in: Callable[[ModuleType], None]) -> None:
        self._replace_in = replace_in

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Finds one of the modules as Python does, for a loader that also replaces."""
        spec = importlib.machinery.PathFinder.find_spec(name, path) if name in _HELPERS else None
        if spec is not None and spec.loader is not None:
            run = spec.loader.exec_module

            def run_and_replace(module: ModuleType) -> None:
                run(module)
                self._replace_in(module)

            spec.loader.exec_module = run_and_replace  # type: ignore[method-assign]
        return spec
