"""`nms` and `batched_nms` in ONNX."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ssd_ops import checks
from ssd_ops.reference.suppression import check_idxs, check_nms

_ALL = 2**31 - 1  # boxes per class that NonMaxSuppression may keep


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, suppress_equal: bool) -> Tensor:
    """Returns the kept indices, int64 `[K]`; see `ssd_ops.nms`."""
    check_nms(boxes, scores, iou_threshold, suppress_equal)
    order = _by_score(scores)
    ranks = _ranks(order)[None]
    return _kept(boxes, order, ranks, iou_threshold, suppress_equal)


def batched_nms(boxes: Tensor, scores: Tensor, idxs: Tensor, iou_threshold: float, suppress_equal: bool) -> Tensor:
    """Returns the kept indices of all classes, int64 `[K]`; see `ssd_ops.batched_nms`."""
    check_nms(boxes, scores, iou_threshold, suppress_equal)
    check_idxs(idxs, boxes)
    ascending = idxs.sort().values
    is_first = torch.cat([ascending[:1] == ascending[:1], ascending[1:] != ascending[:-1]])
    classes = ascending[is_first]
    order = _by_score(scores)
    ranks = torch.where(idxs[order][None, :] == classes[:, None], _ranks(order)[None, :], 0)  # [classes, N]
    return _kept(boxes, order, ranks, iou_threshold, suppress_equal)


def _by_score(scores: Tensor) -> Tensor:
    """Returns the indices by descending score, NaN first, equal ones by index."""
    is_nan = scores != scores
    order = torch.where(is_nan, torch.inf, _compared(scores)).sort(descending=True).indices
    return order[is_nan[order].to(torch.int64).sort(descending=True).indices]


def _compared(scores: Tensor) -> Tensor:
    return scores if scores.dtype == torch.float64 else scores.to(torch.float32)


def _ranks(order: Tensor) -> Tensor:
    """Returns N, N - 1, ..., 1, which replace the scores, so that no runtime gets NaN, infinite or equal scores."""
    return torch.arange(order.shape[0], 0, -1, dtype=torch.float32, device=order.device)


def _kept(boxes: Tensor, order: Tensor, ranks: Tensor, iou_threshold: float, suppress_equal: bool) -> Tensor:
    kept = non_max_suppression(boxes[order][None], ranks[None], iou_threshold, suppress_equal)
    return order[kept[:, 2].sort().values]


def non_max_suppression(
    boxes: Tensor,  # [B, N, 4] xyxy
    ranks: Tensor,  # [B, C, N] float32
    iou_threshold: float,
    suppress_equal: bool,
) -> Tensor:
    """Returns the kept (image, class, box), int64 `[K, 3]`; boxes are visited by descending rank, those of rank 0 never.

    Raises:
        RuntimeError: The boxes are float64, or the threshold is one that ONNX does not have.
    """
    if boxes.dtype == torch.float64:
        checks.fail(
            "boxes must be float32 or half precision in a program that is exported to ONNX, whose NMS is float32"
        )
    boxes = boxes.to(torch.float32)
    # ONNX swaps the corners of an inverted box, and may do anything with NaN: neither overlaps any other box.
    x1, y1, x2, y2 = boxes.unbind(-1)
    proper = (x1 <= x2) & (y1 <= y2)  # not all(dim=-1): ONNX Runtime 1.23 fails without boxes
    boxes = torch.where(proper[..., None], boxes, 0)
    threshold = _threshold(iou_threshold, suppress_equal)
    if torch.jit.is_tracing():
        return _NonMaxSuppression.apply(boxes, ranks, threshold)  # type: ignore[no-any-return]
    # not torch.tensor, which no decomposition of a traced program may contain
    constants = [torch.full((1,), value) for value in (_ALL, threshold, 0.5)]
    return torch.onnx.ops.symbolic(
        "NonMaxSuppression", (boxes, ranks, *constants), dtype=torch.int64, shape=(_unknown_size(ranks), 3), version=11
    )


def _threshold(iou_threshold: float, suppress_equal: bool) -> float:
    """Returns the greatest float32 t so that `iou > t` in float32 is the comparison of the op, which is in float64."""
    if iou_threshold < 0 or (iou_threshold == 0 and suppress_equal):
        checks.fail(
            f"iou_threshold must be at least 0, and above 0 with suppress_equal, in a program that is exported to ONNX, "
            f"got {iou_threshold:g}"
        )
    rounded = np.float32(iou_threshold)
    if float(rounded) > iou_threshold or (suppress_equal and float(rounded) == iou_threshold):
        rounded = np.nextafter(rounded, np.float32(-1))
    return min(float(rounded), 1.0)  # no IoU is above 1


def _unknown_size(tensor: Tensor) -> Any:
    """Returns a new symbol for a size that depends on data."""
    return tensor.reshape(-1).nonzero().shape[0]


class _NonMaxSuppression(torch.autograd.Function):
    """The operator for the TorchScript exporter, which runs `forward` for an example and writes `symbolic`."""

    @staticmethod
    def forward(ctx: Any, boxes: Tensor, ranks: Tensor, threshold: float) -> Tensor:
        """Returns the indices of the example."""
        members = (ranks > 0).nonzero()
        image, label, box = members.unbind(1)
        scores, idxs = ranks[image, label, box], image * ranks.shape[1] + label
        return members[torch.ops.ssd_ops.batched_nms(boxes[image, box], scores, idxs, threshold)]

    @staticmethod
    def symbolic(g: Any, boxes: Any, ranks: Any, threshold: float) -> Any:
        """Writes the operator."""
        constants = [g.op("Constant", value_t=torch.tensor([value])) for value in (_ALL, threshold, 0.5)]
        return g.op("NonMaxSuppression", boxes, ranks, *constants)
