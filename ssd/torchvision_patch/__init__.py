"""An existing detector of torchvision on the ops of ssd_ops: one call to change it in place, one to change it back."""

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
from ssd.torchvision_patch.fused import assign_targets_to_proposals, obstacle, ssd_forward

# Methods of torchvision that call batched_nms or box_iou.
_METHODS: dict[Any, tuple[str, ...]] = {
    TorchvisionSSD: ("forward", "postprocess_detections"),
    RetinaNet: ("compute_loss", "postprocess_detections"),
    FCOS: ("postprocess_detections",),
    RegionProposalNetwork: ("filter_proposals",),
    RoIHeads: ("assign_targets_to_proposals", "postprocess_detections"),
}
# Those of them that have a fused form, for the models that it is exact for.
_FUSED: dict[Any, dict[str, Callable[..., Any]]] = {
    TorchvisionSSD: {"forward": ssd_forward},
    RoIHeads: {"assign_targets_to_proposals": assign_targets_to_proposals},
}


def accelerate(model: nn.Module) -> nn.Module:
    """Turns a detector of torchvision to the ops of ssd_ops, in place; `restore` turns it back.

    Calls, results, parameters and the state dict stay as they are; the class of the changed modules becomes a subclass
    of what it was. Every torchvision module inside `model` is found, also under DDP or in a module of your own.

    * `SSD` (ssd300_vgg16, ssdlite320_mobilenet_v3_large, your own): matching, the loss and the post-process are one op
      each for the whole batch.
    * Faster, Mask and Keypoint R-CNN: NMS of proposals and of detections, the IoU matrix of the proposal network, and
      the matching of the box heads (one threshold, no low-quality matches). RetinaNet and FCOS: NMS; RetinaNet's IoU
      matrix. Left as they are: the matching with two thresholds and low-quality matches, sampling and losses of these.
    * A method that your own subclass overrides is left alone. An SSD whose parts are not torchvision's (its matcher, box
      coder, anchors, transform, loss or post-process, or a ratio of negatives that is no whole number) gets NMS and IoU
      only, with a warning that says why. Parts, options and methods are looked at in every call: what you change later
      acts as it would in torchvision.

    Results are equal to torchvision's up to the rounding of exp and log, except where torchvision's are at fault:

    * its batched_nms moves the classes apart by adding to the coordinates, which rounds IoUs (of up to 1000 boxes on a
      CPU, 25000 on a GPU); here an IoU is never rounded;
    * its SSD counts positives twice in the loss of images with fewer negatives than three times the positives; here a
      prior counts once;
    * of several objects that claim one prior, any may win on a GPU there, the last one here; an object that overlaps
      no prior claims the first one there, none here;
    * under autocast its SSD makes anchors in half precision, good to 0.25 px; here they are float32.

    Undo before torch.jit.script and ONNX export.

    Args:
        model: in training or evaluation mode, on any device.
    Returns:
        the same model.
    Raises:
        TypeError: there is no detector of torchvision in it.
    """
    found = False
    for module in model.modules() if isinstance(model, nn.Module) else ():
        if restored_class(module) is not None:
            found = True
            continue
        if (base := next((b for b in _METHODS if isinstance(module, b)), None)) is None:
            continue
        found = True
        reason = obstacle(module)
        if reason and base is TorchvisionSSD:
            warnings.warn(f"{type(module).__name__}: {reason}, so only its NMS and IoU are replaced", stacklevel=2)
        cls: Any = type(module)
        module.__class__ = _accelerated(cls, base)
        if vars(module).get("box_similarity") is box_ops.box_iou:
            vars(module)["box_similarity"] = ssd_ops.box_iou
    if not found:
        known = ", ".join(base.__name__ for base in _METHODS)
        raise TypeError(f"model must be or hold a detector of torchvision ({known}), got {type(model).__name__}")
    return model


def restore(model: nn.Module) -> nn.Module:
    """Turns a model back to what it was before `accelerate`, in place, and returns it; others are left alone."""
    for module in model.modules():
        if (base := restored_class(module)) is not None:
            module.__class__ = base
            if vars(module).get("box_similarity") is ssd_ops.box_iou:
                vars(module)["box_similarity"] = box_ops.box_iou
    return model


def restored_class(module: nn.Module) -> type[nn.Module] | None:
    """The class that a module had before `accelerate`, or None if it was not changed."""
    return vars(type(module)).get("_accelerated_from")


@cache
def _accelerated(cls: Any, base: Any) -> type[nn.Module]:
    """A subclass of `cls` with those of torchvision's methods replaced that `cls` has not overridden."""
    methods: dict[str, Any] = {
        name: _replacement(cls, base, name) for name in _METHODS[base] if getattr(cls, name) is getattr(base, name)
    }

    def __reduce_ex__(self: nn.Module, protocol: Any) -> tuple[Any, ...]:
        # the class is made at run time, so pickle and deepcopy need to be told how
        return _new, (cls, base), *cls.__reduce_ex__(self, protocol)[2:]

    def __prepare_scriptable__(self: nn.Module) -> Any:
        raise RuntimeError(f"torch.jit.script cannot read the accelerated {cls.__name__}; ssd.restore(model) first")

    methods.update(__reduce_ex__=__reduce_ex__, __prepare_scriptable__=__prepare_scriptable__)
    methods.update(_accelerated_from=cls, __module__=__name__)
    return type(f"Accelerated{cls.__name__}", (cls,), methods)


def _new(cls: Any, base: Any) -> nn.Module:
    accelerated = _accelerated(cls, base)
    return accelerated.__new__(accelerated)


def _replacement(cls: Any, base: Any, name: str) -> Callable[..., Any]:
    """A method of torchvision on our ops, fused for models that allow it, which yields to whatever replaces it later."""
    theirs = getattr(base, name)
    ours, fused = _on_our_ops(theirs), _FUSED.get(base, {}).get(name)

    @wraps(theirs)
    def method(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if (now := getattr(cls, name)) is not theirs:
            return now(self, *args, **kwargs)
        if fused is None or obstacle(self) is not None:
            return ours(self, *args, **kwargs)
        return fused(self, partial(ours, self), *args, **kwargs)

    return method


def _on_our_ops(function: types.FunctionType) -> types.FunctionType:
    """The same function of torchvision, but the name box_ops in it means our NMS and IoU."""
    if function.__globals__.get("box_ops") is not box_ops or "box_ops" not in function.__code__.co_names:
        raise RuntimeError(
            f"torchvision {torchvision.__version__} has another {function.__qualname__} than ssd.accelerate knows"
        )
    ours = {"nms": ssd_ops.nms, "batched_nms": ssd_ops.batched_nms, "box_iou": ssd_ops.box_iou}
    names = {**function.__globals__, "box_ops": types.SimpleNamespace(**{**vars(box_ops), **ours})}
    copy = types.FunctionType(function.__code__, names, function.__name__, function.__defaults__, function.__closure__)
    copy.__kwdefaults__, copy.__doc__ = function.__kwdefaults__, function.__doc__
    return copy
