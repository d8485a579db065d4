"""Patches torchvision's detectors in place to use the ops of ssd_ops, and restores them."""

from __future__ import annotations

import types
import warnings
from collections.abc import Callable
from functools import cache, partial, wraps
from typing import Any

import torchvision
from torch import nn
from torchvision.models.detection import FCOS, RetinaNet
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork
from torchvision.models.detection.ssd import SSD as TorchvisionSSD
from torchvision.ops import boxes as box_ops

import ssd_ops
from ssd.torchvision_patch.fused import assign_targets_to_proposals, ssd_forward, why_not_fused

# Methods of torchvision that call batched_nms or box_iou.
_METHODS: dict[Any, tuple[str, ...]] = {
    TorchvisionSSD: ("forward", "postprocess_detections"),
    RetinaNet: ("compute_loss", "postprocess_detections"),
    FCOS: ("postprocess_detections",),
    RegionProposalNetwork: ("filter_proposals",),
    RoIHeads: ("assign_targets_to_proposals", "postprocess_detections"),
}
# Methods with a fused implementation, for models where it is exact.
_FUSED: dict[Any, dict[str, Callable[..., Any]]] = {
    TorchvisionSSD: {"forward": ssd_forward},
    RoIHeads: {"assign_targets_to_proposals": assign_targets_to_proposals},
}


def accelerate(model: nn.Module) -> nn.Module:
    """Patches a torchvision detector in place to use the ops of ssd_ops; `restore` undoes it.

    Signatures, parameters and the state dict do not change; the class of each patched module becomes a subclass of the
    original one. All torchvision detectors inside `model` are patched, also inside DDP or your own modules.

    * `SSD` (ssd300_vgg16, ssdlite320_mobilenet_v3_large, your own): matching, loss and post-processing are one op each
      for the whole batch.
    * Faster, Mask and Keypoint R-CNN: NMS of proposals and detections, the IoU matrix of the proposal network, and the
      matching of the box heads (one threshold, no low-quality matches). RetinaNet: NMS and the IoU matrix. FCOS: NMS.
      Their sampling, their losses, and matching with two thresholds and low-quality matches do not change.
    * Methods that your subclass overrides are not patched. An SSD with custom parts (matcher, box coder, anchors,
      transform, loss or post-processing, or a non-integer ratio of negatives) only gets NMS and IoU, with a warning
      that states the reason. This is checked in every call, so later changes have the same effect as in torchvision.

    The results equal those of torchvision up to rounding of exp and log, except for these bugs of torchvision:

    * Its batched_nms offsets the coordinates by class, which rounds IoUs (for up to 1000 boxes on a CPU, 25000 on a
      GPU); here IoUs are not rounded.
    * Its SSD counts positives twice in the loss of images with fewer negatives than three times the positives; here
      each prior counts once.
    * If several objects match the same prior, the winner is undefined on a GPU; here it is the last one. An object that
      overlaps no prior is matched to the first prior; here to none.
    * Under autocast its SSD computes anchors in half precision, with errors of up to 0.25 px; here in float32.

    Call `restore` before torch.jit.script and ONNX export.

    Args:
        model: Model in training or evaluation mode, on any device.

    Returns:
        The same model.

    Raises:
        TypeError: The model does not contain a torchvision detector.
    """
    found = False
    for module in model.modules() if isinstance(model, nn.Module) else ():
        if restored_class(module) is not None:
            found = True
            continue
        if (base := next((b for b in _METHODS if isinstance(module, b)), None)) is None:
            continue
        found = True
        reason = why_not_fused(module)
        if reason and base is TorchvisionSSD:
            warnings.warn(f"{type(module).__name__}: {reason}; only NMS and IoU are replaced", stacklevel=2)
        cls: Any = type(module)
        module.__class__ = _accelerated(cls, base)
        if vars(module).get("box_similarity") is box_ops.box_iou:
            vars(module)["box_similarity"] = ssd_ops.box_iou
    if not found:
        known = ", ".join(base.__name__ for base in _METHODS)
        raise TypeError(f"model must be or contain a torchvision detector ({known}), got {type(model).__name__}")
    return model


def restore(model: nn.Module) -> nn.Module:
    """Undoes `accelerate` in place and returns the model; other models do not change."""
    for module in model.modules():
        if (base := restored_class(module)) is not None:
            module.__class__ = base
            if vars(module).get("box_similarity") is ssd_ops.box_iou:
                vars(module)["box_similarity"] = box_ops.box_iou
    return model


def restored_class(module: nn.Module) -> type[nn.Module] | None:
    """Returns the class that a module had before `accelerate`, or None if it is not patched."""
    return vars(type(module)).get("_accelerated_from")


@cache
def _accelerated(cls: Any, base: Any) -> type[nn.Module]:
    """Returns a subclass of `cls` that replaces the methods of torchvision that `cls` does not override."""
    methods: dict[str, Any] = {
        name: _replacement(cls, base, name) for name in _METHODS[base] if getattr(cls, name) is getattr(base, name)
    }

    def __reduce_ex__(self: nn.Module, protocol: Any) -> tuple[Any, ...]:
        # The class is created at run time, so pickle and deepcopy need a function that recreates it.
        return _new, (cls, base), *cls.__reduce_ex__(self, protocol)[2:]

    def __prepare_scriptable__(self: nn.Module) -> Any:
        raise RuntimeError(
            f"torch.jit.script does not support the accelerated {cls.__name__}; call ssd.restore(model) first"
        )

    methods.update(__reduce_ex__=__reduce_ex__, __prepare_scriptable__=__prepare_scriptable__)
    methods.update(_accelerated_from=cls, __module__=__name__)
    return type(f"Accelerated{cls.__name__}", (cls,), methods)


def _new(cls: Any, base: Any) -> nn.Module:
    accelerated = _accelerated(cls, base)
    return accelerated.__new__(accelerated)


def _replacement(cls: Any, base: Any, name: str) -> Callable[..., Any]:
    """Returns the patched method, fused if the model allows it; a method that is replaced later takes precedence."""
    original = getattr(base, name)
    patched, fused = _with_ssd_ops(original), _FUSED.get(base, {}).get(name)

    @wraps(original)
    def method(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if (current := getattr(cls, name)) is not original:
            return current(self, *args, **kwargs)
        if fused is None or why_not_fused(self) is not None:
            return patched(self, *args, **kwargs)
        return fused(self, partial(patched, self), *args, **kwargs)

    return method


def _with_ssd_ops(function: types.FunctionType) -> types.FunctionType:
    """Returns a copy of a torchvision function in which the name box_ops refers to NMS and IoU of ssd_ops."""
    if function.__globals__.get("box_ops") is not box_ops or "box_ops" not in function.__code__.co_names:
        raise RuntimeError(
            f"ssd.accelerate does not support {function.__qualname__} of torchvision {torchvision.__version__}"
        )
    ours = {"nms": ssd_ops.nms, "batched_nms": ssd_ops.batched_nms, "box_iou": ssd_ops.box_iou}
    names = {**function.__globals__, "box_ops": types.SimpleNamespace(**{**vars(box_ops), **ours})}
    copy = types.FunctionType(function.__code__, names, function.__name__, function.__defaults__, function.__closure__)
    copy.__kwdefaults__, copy.__doc__ = function.__kwdefaults__, function.__doc__
    return copy
