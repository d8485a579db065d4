"""Puts the ops behind torchvision's own: `torchvision::nms` in the dispatcher, and the box functions of torchvision.ops."""

from __future__ import annotations

import functools
import importlib
import re
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

import ssd_ops

FUNCTIONS = ("nms", "batched_nms", "box_iou", "generalized_box_iou", "distance_box_iou", "complete_box_iou")
# What torchvision's import needs of its extension; qnms, for quantized boxes, stays without a kernel.
_SCHEMAS = tuple(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor" for name in ("nms", "qnms"))
_libraries: list[torch.library.Library] = []
_originals: list[tuple[ModuleType, str, Callable[..., Any]]] = []


def install() -> list[str]:
    """Makes torchvision, and all that calls it, use the ops of this package, until `uninstall`.

    `torch.ops.torchvision.nms` gets these kernels on CPU and CUDA, whoever calls it: torchvision's detectors,
    TorchScript, and any library that calls `torchvision.ops.nms`. `torchvision.ops` and `torchvision.ops.boxes` get
    `nms`, `batched_nms`, `box_iou`, `generalized_box_iou`, `distance_box_iou` and `complete_box_iou`. Code that imported
    one of these by name before keeps torchvision's function, which calls the new `nms`. If torchvision cannot load its
    extension, so that even its import fails, it can be imported afterwards; its other operators remain unavailable.

    Results are equal, except where torchvision's depend on its algorithm: boxes of equal scores are ordered by index, and
    IoU of 32- and 64-bit integers is float64. A second call changes nothing.

    Returns:
        The names of what was replaced.

    Raises:
        ImportError: torchvision is not installed.
    """
    if not _libraries:
        torchvision = _import_torchvision()
        library = torch.library.Library("torchvision", "IMPL")
        for key in ("CPU", "CUDA"):
            library.impl("nms", _nms, key, allow_override=True)
        _libraries.append(library)
        for module in (torchvision.ops, torchvision.ops.boxes):
            for name in FUNCTIONS:
                if hasattr(module, name):
                    _originals.append((module, name, getattr(module, name)))
                    setattr(module, name, getattr(ssd_ops, name))
    return ["torchvision::nms", *dict.fromkeys(f"torchvision.ops.{name}" for _, name, _ in _originals)]


def uninstall() -> None:
    """Restores the functions and kernels of torchvision; does nothing if nothing is installed."""
    while _originals:
        module, name, function = _originals.pop()
        setattr(module, name, function)
    while _libraries:
        _libraries.pop()._destroy()


def _nms(dets: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    return torch.ops.ssd_ops.nms(dets, scores, iou_threshold, False)  # type: ignore[no-any-return]


@functools.cache
def _definition() -> torch.library.Library:
    """Defines the ops for the rest of the process, where torchvision's extension did not."""
    library = torch.library.Library("torchvision", "FRAGMENT")
    for schema in _SCHEMAS:
        library.define(schema)
    return library


def _import_torchvision() -> Any:
    try:
        torchvision = importlib.import_module("torchvision")
    except RuntimeError as error:
        if not re.search("operator torchvision::q?nms does not exist", str(error)):
            raise
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]  # only partly imported
        _definition()
        torchvision = importlib.import_module("torchvision")
    if not hasattr(torch.ops.torchvision, "nms"):
        _definition()
    importlib.import_module("torchvision.ops")
    return torchvision
