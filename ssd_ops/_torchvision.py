"""Replaces ops of torchvision: `torchvision::nms` in the dispatcher, and the box functions of torchvision.ops."""

from __future__ import annotations

import functools
import importlib
import re
import sys
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from ssd_ops._other_libraries import ImportHook, loaded_helpers, replace_helpers
from ssd_ops.overlap import box_iou, complete_box_iou, distance_box_iou, generalized_box_iou
from ssd_ops.suppression import batched_nms, nms

_FUNCTIONS = (nms, batched_nms, box_iou, generalized_box_iou, distance_box_iou, complete_box_iou)
# What torchvision's import needs of its extension; qnms, for quantized boxes, stays without a kernel.
_SCHEMAS = tuple(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor" for name in ("nms", "qnms"))
_libraries: list[torch.library.Library] = []
_originals: list[tuple[Any, str, Any]] = []  # owner, name of its attribute, previous value
_hooks: list[ImportHook] = []
_installed: list[str] = []  # names of what was replaced


def install() -> list[str]:
    """Makes torchvision, and all that calls it, use the ops of this package, until `uninstall`.

    `torch.ops.torchvision.nms` gets these kernels on CPU and CUDA, whoever calls it: torchvision's detectors,
    TorchScript, and any library that calls `torchvision.ops.nms`. `torchvision.ops` and `torchvision.ops.boxes` get
    `nms`, `batched_nms`, `box_iou`, `generalized_box_iou`, `distance_box_iou` and `complete_box_iou`, and so do modules
    that imported one of these by name before. The NMS functions of ultralytics (`TorchNMS.nms`) and supervision
    (`box_non_max_suppression`), which do not call torchvision's, are replaced too, also if imported later; detectron2's
    call torchvision's. If torchvision cannot load its extension, so that even its import fails, it can be imported
    afterwards; its other operators remain unavailable.

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
        _installed.extend(["torchvision::nms", *_replace_functions(torchvision)])
        for module in loaded_helpers():
            _installed.extend(replace_helpers(_replace_everywhere, module))
        _hooks.append(ImportHook(lambda module: _installed.extend(replace_helpers(_replace, module))))
        sys.meta_path.insert(0, _hooks[0])
    return [*_installed]


def uninstall() -> None:
    """Restores the functions and kernels of torchvision and of other libraries; does nothing if nothing is installed.

    A module that imported a function by name while the ops were installed keeps it.
    """
    while _hooks:
        sys.meta_path.remove(_hooks.pop())
    while _originals:
        owner, name, value = _originals.pop()
        setattr(owner, name, value)
    while _libraries:
        _libraries.pop()._destroy()
    _installed.clear()


def _replace(owner: Any, name: str, value: Any) -> None:
    """Replaces an attribute of a module or class."""
    _originals.append((owner, name, vars(owner)[name]))
    setattr(owner, name, value)


def _replace_everywhere(owner: Any, name: str, value: Any) -> None:
    """Replaces an attribute of a module or class, and in all modules the names that are bound to the same function."""
    original = vars(owner)[name]
    _replace(owner, name, value)
    for module in list(sys.modules.values()):
        if not isinstance(module, ModuleType) or module.__name__.partition(".")[0] == "ssd_ops":
            continue
        for other in [key for key, bound in list(vars(module).items()) if bound is original]:
            _replace(module, other, value)


def _replace_functions(torchvision: Any) -> list[str]:
    """Replaces the functions of torchvision.ops and returns their names."""
    functions = {function.__name__: function for function in _FUNCTIONS if hasattr(torchvision.ops, function.__name__)}
    for name, function in functions.items():
        for module in (torchvision.ops.boxes, torchvision.ops):
            if getattr(module, name, None) is not function:  # the first may have replaced the second
                _replace_everywhere(module, name, function)
    return [f"torchvision.ops.{name}" for name in functions]


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
