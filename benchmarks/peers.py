"""torchvision's own code for the steps that it has no op for: matching, loss and post-processing of its SSD."""

from __future__ import annotations

from types import SimpleNamespace

import torch
from torch import Tensor
from torchvision.models.detection._utils import BoxCoder, SSDMatcher
from torchvision.models.detection.ssd import SSD
from torchvision.ops import box_iou

CODER = BoxCoder((10.0, 10.0, 5.0, 5.0))


def match_and_encode(boxes: list[Tensor], labels: list[Tensor], priors: Tensor) -> tuple[Tensor, Tensor]:
    """Returns labels `[B, P]` and encoded boxes `[B, P, 4]`, image by image as `SSD.forward` and `compute_loss` do."""
    matcher = SSDMatcher(0.5)
    all_labels, all_targets = [], []
    for box, label in zip(boxes, labels, strict=True):
        matched = matcher(box_iou(box, priors))
        found = torch.where(matched >= 0)[0]
        targets = torch.zeros_like(priors)
        targets[found] = CODER.encode_single(box[matched[found]], priors[found])
        classes = torch.zeros(len(priors), dtype=torch.int64, device=priors.device)
        classes[found] = label[matched[found]]
        all_labels.append(classes)
        all_targets.append(targets)
    return torch.stack(all_labels), torch.stack(all_targets)


def compute_loss(
    loc: Tensor, logits: Tensor, targets: list[dict[str, Tensor]], priors: list[Tensor], matched: list[Tensor]
) -> dict[str, Tensor]:
    """Calls torchvision's `SSD.compute_loss`."""
    owner = SimpleNamespace(box_coder=CODER, neg_to_pos_ratio=3.0)
    return SSD.compute_loss(owner, targets, {"bbox_regression": loc, "cls_logits": logits}, priors, matched)  # type: ignore[arg-type]


def postprocess(
    loc: Tensor,
    logits: Tensor,
    priors: Tensor,
    score_threshold: float,
    iou_threshold: float,
    topk: int,
    detections: int,
) -> list[dict[str, Tensor]]:
    """Calls torchvision's `SSD.postprocess_detections` with an image size of 1."""
    owner = SimpleNamespace(
        box_coder=CODER,
        score_thresh=score_threshold,
        nms_thresh=iou_threshold,
        topk_candidates=topk,
        detections_per_img=detections,
    )
    outputs = {"bbox_regression": loc, "cls_logits": logits}
    return SSD.postprocess_detections(owner, outputs, [priors] * len(loc), [(1, 1)] * len(loc))  # type: ignore[arg-type]
