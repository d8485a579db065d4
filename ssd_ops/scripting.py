"""TorchScript forms of the functions of `ssd_ops`, which `torch.jit.script` compiles in their place.

TorchScript supports neither keyword-only defaults nor what the public functions do for eager calls.
"""

import torch
from torch import Tensor


def box_iou(boxes1: Tensor, boxes2: Tensor, fmt: str = "xyxy") -> Tensor:
    """See `ssd_ops.box_iou`."""
    if fmt != "xyxy":
        raise ValueError("fmt must be xyxy in TorchScript: convert the boxes first")
    boxes1, boxes2 = _pairs(boxes1, boxes2)
    return torch.ops.ssd_ops.box_iou(boxes1, boxes2)  # type: ignore[no-any-return]


def generalized_box_iou(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """See `ssd_ops.generalized_box_iou`."""
    boxes1, boxes2 = _pairs(boxes1, boxes2)
    return torch.ops.ssd_ops.generalized_box_iou(boxes1, boxes2)  # type: ignore[no-any-return]


def distance_box_iou(boxes1: Tensor, boxes2: Tensor, eps: float = 1e-7) -> Tensor:
    """See `ssd_ops.distance_box_iou`."""
    if eps != 1e-7:
        raise ValueError("eps must be 1e-7 in TorchScript")
    boxes1, boxes2 = _pairs(boxes1, boxes2)
    return torch.ops.ssd_ops.distance_box_iou(boxes1, boxes2)  # type: ignore[no-any-return]


def complete_box_iou(boxes1: Tensor, boxes2: Tensor, eps: float = 1e-7) -> Tensor:
    """See `ssd_ops.complete_box_iou`."""
    if eps != 1e-7:
        raise ValueError("eps must be 1e-7 in TorchScript")
    boxes1, boxes2 = _pairs(boxes1, boxes2)
    return torch.ops.ssd_ops.complete_box_iou(boxes1, boxes2)  # type: ignore[no-any-return]


def encode_boxes(
    boxes: Tensor,
    priors: Tensor,
    variances: list[float] | None = None,
    code_type: str = "center_size",
) -> Tensor:
    """See `ssd_ops.encode_boxes`."""
    boxes, priors = _coded(boxes, priors)
    return torch.ops.ssd_ops.encode_boxes(boxes, priors, _four(variances), code_type)  # type: ignore[no-any-return]


def decode_boxes(
    deltas: Tensor,
    priors: Tensor,
    variances: list[float] | None = None,
    code_type: str = "center_size",
) -> Tensor:
    """See `ssd_ops.decode_boxes`."""
    deltas, priors = _coded(deltas, priors)
    return torch.ops.ssd_ops.decode_boxes(deltas, priors, _four(variances), code_type)  # type: ignore[no-any-return]


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, suppress_equal: bool = False) -> Tensor:
    """See `ssd_ops.nms`."""
    boxes, scores = _floating(boxes), _floating(scores)
    return torch.ops.ssd_ops.nms(boxes, scores, iou_threshold, suppress_equal)  # type: ignore[no-any-return]


def batched_nms(
    boxes: Tensor, scores: Tensor, idxs: Tensor, iou_threshold: float, suppress_equal: bool = False
) -> Tensor:
    """See `ssd_ops.batched_nms`."""
    boxes, scores = _floating(boxes), _floating(scores)
    if idxs.is_floating_point():
        idxs = torch._unique2(idxs, True, True)[1]  # ids of the values
    idxs = idxs.to(torch.int64)
    return torch.ops.ssd_ops.batched_nms(boxes, scores, idxs, iou_threshold, suppress_equal)  # type: ignore[no-any-return]


def _floating(tensor: Tensor) -> Tensor:
    if tensor.is_floating_point() or tensor.is_complex():
        return tensor
    kind = tensor.dtype
    if kind == torch.bool or kind == torch.uint8 or kind == torch.int8 or kind == torch.int16:
        return tensor.float()
    return tensor.double()


def _pairs(boxes1: Tensor, boxes2: Tensor) -> tuple[Tensor, Tensor]:
    boxes1, boxes2 = _floating(boxes1), _floating(boxes2)
    if boxes1.dtype != boxes2.dtype:
        wide = boxes1.dtype == torch.float64 or boxes2.dtype == torch.float64
        dtype = torch.float64 if wide else torch.float32
        boxes1, boxes2 = boxes1.to(dtype), boxes2.to(dtype)
    if boxes1.dim() >= 2 and boxes2.dim() >= 2 and boxes1.size()[:-2] != boxes2.size()[:-2]:
        leading = torch.broadcast_tensors([boxes1.sum([-1, -2]), boxes2.sum([-1, -2])])[0].size()
        boxes1 = boxes1.expand(leading + boxes1.size()[-2:])
        boxes2 = boxes2.expand(leading + boxes2.size()[-2:])
    return boxes1, boxes2


def _coded(boxes: Tensor, priors: Tensor) -> tuple[Tensor, Tensor]:
    boxes, priors = _floating(boxes), _floating(priors)
    if priors.dim() > boxes.dim() or boxes.size()[boxes.dim() - priors.dim() :] != priors.size():
        both = torch.broadcast_tensors([boxes, priors])
        boxes, priors = both[0], both[1]
    return boxes, priors


def _four(variances: list[float] | None) -> list[float]:
    if variances is None:  # TorchScript accepts no tuple for a list, nor a list as default
        return [0.1, 0.1, 0.2, 0.2]
    if len(variances) == 2:
        return [variances[0], variances[0], variances[1], variances[1]]
    return variances
