"""Fused implementations of methods of torchvision's detectors, and checks for which models they are exact."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.models.detection._utils import BoxCoder, Matcher, SSDMatcher
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.ssd import SSD as TorchvisionSSD
from torchvision.models.detection.transform import GeneralizedRCNNTransform

import ssd_ops
from ssd.models.torchvision_io import split_detections

_METHODS = {name: getattr(TorchvisionSSD, name) for name in ("forward", "compute_loss", "postprocess_detections")}
_METHODS["eager_outputs"] = TorchvisionSSD.eager_outputs
_PARTS = {
    "proposal_matcher": SSDMatcher,
    "box_coder": BoxCoder,
    "anchor_generator": DefaultBoxGenerator,
    "transform": GeneralizedRCNNTransform,
}


def why_not_fused(module: nn.Module) -> str | None:
    """Returns why the fused implementation would not be exact for a module, or None if it is."""
    if isinstance(module, RoIHeads):
        matcher = module.proposal_matcher
        one_threshold = type(matcher) is Matcher and matcher.high_threshold == matcher.low_threshold
        return None if one_threshold and not matcher.allow_low_quality_matches else "its matcher is not torchvision's"
    if not isinstance(module, TorchvisionSSD):
        return None
    cls = vars(type(module)).get("_accelerated_from", type(module))
    for name, theirs in _METHODS.items():
        if getattr(cls, name) is not theirs or (name in vars(module) and name != "forward"):
            return f"it has its own {name}"
    for name, part in _PARTS.items():
        own = getattr(module, name)
        if type(own) is not part:
            return f"its {name} is a {type(own).__name__}, not torchvision's {part.__name__}"
        if replaced := next((key for key in vars(own) if callable(getattr(part, key, None))), None):
            return f"its {name} has its own {replaced}"
    if module.transform.fixed_size is None or module.transform.size_divisible != 1:
        return "its transform does not warp every image to one size"
    if module.box_coder.bbox_xform_clip != math.log(1000 / 16):
        return f"its box_coder clamps at {module.box_coder.bbox_xform_clip:g}, not at log(1000 / 16)"
    if not float(module.neg_to_pos_ratio).is_integer():
        return f"its ratio of negatives to positives, {module.neg_to_pos_ratio:g}, is not an integer"
    return None


def assign_targets_to_proposals(
    self: RoIHeads,
    unfused: Callable[..., Any],
    proposals: list[Tensor],  # [N, 4] xyxy each
    gt_boxes: list[Tensor],  # [G, 4] xyxy each
    gt_labels: list[Tensor],  # [G] each
) -> tuple[list[Tensor], list[Tensor]]:
    """Returns for each image the matched object of each proposal (0 if none) and its label (0 is background).

    Equals torchvision's method without its IoU matrices; `unfused` is that method, for thresholds that the op rejects.
    """
    threshold = _as_float32(self.proposal_matcher.high_threshold)
    if not 0 < threshold <= 1:
        fallback: tuple[list[Tensor], list[Tensor]] = unfused(proposals, gt_boxes, gt_labels)
        return fallback
    indices, labels = [], []
    for boxes, objects, object_labels in zip(proposals, gt_boxes, gt_labels, strict=False):
        if not len(objects):  # the labels of an image without objects may have any shape
            indices.append(torch.zeros(len(boxes), dtype=torch.int64, device=boxes.device))
            labels.append(torch.zeros_like(indices[-1]))
            continue
        # Only the index of the object is needed, so any positive label is enough.
        ones = torch.ones(len(objects), dtype=torch.int64, device=objects.device)
        (matched,) = ssd_ops.match_priors([objects], [ones], boxes, iou_threshold=threshold, rule="none").gt_index
        indices.append(matched.clamp(min=0))
        labels.append(torch.where(matched >= 0, object_labels.long()[indices[-1]], 0))
    return indices, labels


def ssd_forward(
    self: TorchvisionSSD,
    unfused: Callable[..., Any],
    images: list[Tensor],  # [3, H, W] each
    targets: list[dict[str, Tensor]] | None = None,
) -> dict[str, Tensor] | list[dict[str, Tensor]]:
    """Runs torchvision's SSD.forward with one op each for matching, loss and post-processing of the batch.

    `unfused` is torchvision's method, for options and labels that torchvision accepts and the ops reject.
    """
    sizes = [(image.shape[-2], image.shape[-1]) for image in images]
    if self.training:
        _check_targets(targets)
    is_supported = self.training or _are_options_supported(self)
    if is_supported:
        batch, resized_targets = self.transform(images, targets)
        is_supported = resized_targets is None or _are_labels_supported(resized_targets) or not self.training
    if not is_supported:
        outputs: dict[str, Tensor] | list[dict[str, Tensor]] = unfused(images, targets)
        return outputs
    return _outputs(self, batch, sizes, resized_targets)


def _outputs(
    self: TorchvisionSSD, batch: ImageList, sizes: list[tuple[int, int]], targets: list[dict[str, Tensor]] | None
) -> dict[str, Tensor] | list[dict[str, Tensor]]:
    features = self.backbone(batch.tensors)
    features = [features] if isinstance(features, Tensor) else list(features.values())
    outputs = self.head(features)
    loc, logits = outputs["bbox_regression"], outputs["cls_logits"]
    anchors = shared_anchors(self.anchor_generator, batch, features)  # [P, 4] xyxy in pixels of the batch
    variances = [1 / weight for weight in self.box_coder.weights]
    if not self.training:
        height, width = batch.tensors.shape[-2:]
        detections = ssd_ops.detect(
            loc,
            logits,
            anchors / anchors.new_tensor([width, height, width, height]),
            score_threshold=_as_float32(self.score_thresh),
            iou_threshold=self.nms_thresh,
            candidates_per_class=self.topk_candidates,
            max_detections=self.detections_per_img,
            variances=variances,
        )
        return split_detections(detections, sizes)
    assert targets is not None
    targets = targets[: len(sizes)]  # torchvision ignores surplus targets
    matches = ssd_ops.match_priors(
        [target["boxes"] for target in targets],
        [_labels(target) for target in targets],
        anchors,
        iou_threshold=_as_float32(self.proposal_matcher.high_threshold),
        rule="last",
        variances=variances,
    )
    loc_loss, cls_loss = ssd_ops.multibox_loss(
        loc, logits, matches.loc_targets, matches.labels, neg_pos_ratio=self.neg_to_pos_ratio
    )
    return {"bbox_regression": loc_loss, "classification": cls_loss}


def shared_anchors(generator: Callable[..., list[Tensor]], batch: ImageList, features: Sequence[Tensor]) -> Tensor:
    """Returns the anchors `[P, 4]` shared by all images, in float32 even if the features have half precision."""
    dtype = torch.float64 if features[0].dtype == torch.float64 else torch.float32
    one = torch.empty((), dtype=dtype, device=features[0].device)
    placeholders = [one.expand(f.shape) for f in features]  # torchvision reads only their shape, dtype and device
    return generator(ImageList(batch.tensors, batch.image_sizes[:1]), placeholders)[0]


def _as_float32(threshold: float) -> float:
    # torch compares float32 tensors with a threshold that is rounded to float32.
    return float(np.float32(threshold))


def _check_targets(targets: list[dict[str, Tensor]] | None) -> None:
    if targets is None:
        raise AssertionError("targets should not be none when in training mode")
    for i, target in enumerate(targets):
        boxes = target["boxes"]
        if not isinstance(boxes, Tensor):
            raise AssertionError(f"targets[{i}]['boxes'] must be a tensor, got {type(boxes).__name__}")
        if boxes.dim() != 2 or boxes.shape[1] != 4:
            raise AssertionError(f"targets[{i}]['boxes'] must have shape [G, 4], got {list(boxes.shape)}")


def _are_options_supported(self: TorchvisionSSD) -> bool:
    """Returns whether `ssd_ops.detect` supports the post-processing options; torchvision also accepts 0 and negatives."""
    counts, thresholds = (self.topk_candidates, self.detections_per_img), (self.score_thresh, self.nms_thresh)
    return min(counts) >= 1 and all(0 <= threshold <= 1 for threshold in thresholds)


def _are_labels_supported(targets: list[dict[str, Tensor]]) -> bool:
    """Returns whether all labels are at least 1; raises AssertionError for a box without area, as torchvision does."""
    boxes = torch.cat([target["boxes"] for target in targets])
    labels = torch.cat([_labels(target) for target in targets])
    flat = (boxes[:, 2:] <= boxes[:, :2]).any(dim=1)
    is_any_flat, is_any_low = torch.stack((flat.any(), (labels < 1).any())).tolist()  # the only synchronization
    if not is_any_flat:
        return not is_any_low
    index = int(flat.nonzero()[0, 0])
    image = [i for i, target in enumerate(targets) for _ in target["boxes"]][index]
    raise AssertionError(
        "All bounding boxes should have positive height and width. "
        f"Found invalid box {boxes[index].tolist()} for target at index {image}."
    )


def _labels(target: dict[str, Tensor]) -> Tensor:
    # The labels of an image without objects may have any shape.
    return target["labels"].long() if len(target["boxes"]) else target["labels"].new_zeros(0, dtype=torch.int64)
