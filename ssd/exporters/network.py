"""The module that all exporters write, and what a runtime needs to know besides it."""

from __future__ import annotations

import json
from typing import Any

import torch
from torch import Tensor, nn

import ssd_ops
from ssd.data.loading.whole_images import WholeImages
from ssd.inference.detector import Detector
from ssd.models import SSD

INPUT = "images"
DETECTIONS = ("boxes", "scores", "labels", "counts")
RAW = ("boxes", "scores")


class DetectorNetwork(nn.Module):
    """The whole detector: images [B, 3, S, S], RGB float in 0..1, to the tensors of `ssd_ops.Detections`.

    Args:
        model: Detector in evaluation mode.
        nms: Whether to filter; if not, the results are boxes [B, P, 4] and scores [B, P, C] of all priors and classes.
    """

    def __init__(self, model: SSD, nms: bool = True) -> None:
        super().__init__()
        self.model = model
        self.nms = nms
        self.eval()

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Returns boxes [B, D, 4], scores [B, D], labels [B, D] and counts [B]."""
        model = self.model
        images = images.to(torch.float32)  # no conversion: torch.export records it as a check, else uint8 would pass
        loc, logits = model.forward_raw(model.normalize(images))
        if self.nms:
            return tuple(model.detect(loc, logits))
        rules = model.preset
        boxes = ssd_ops.decode_boxes(loc, model.priors, rules.variances)
        scores = logits.sigmoid() if rules.scores == "sigmoid" else logits.softmax(dim=-1)
        return (boxes.clamp(0, 1) if rules.clip_boxes else boxes), scores

    def example(self) -> tuple[Tensor]:
        """Returns an input for tracing: two images, because torch.export specializes on a batch of one."""
        size = self.model.image_size
        return (torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0)),)


def network_input(image: Tensor, side: int) -> Tensor:
    """Returns an image uint8 [3, H, W] as `DetectorNetwork` takes it, [3, side, side] in 0..1."""
    return WholeImages.of([image], side, antialias=True).render()[0] / 255


def describe(detector: Detector) -> dict[str, Any]:
    """Returns classes, preprocessing and thresholds of a detector, for the metadata of exported files."""
    rules = detector.model.preset
    return {
        "classes": list(detector.classes),
        "image_size": detector.model.image_size,
        "resize": "whole image to image_size x image_size, bilinear, antialiased",
        "color": "RGB in 0..1",
        "apply_exif": detector.apply_exif,
        "score_threshold": rules.score_threshold,  # before NMS
        "nms_iou_threshold": rules.nms_iou_threshold,
        "soft_nms_sigma": rules.soft_nms_sigma,  # of Soft-NMS in place of NMS
        "candidates_per_class": rules.candidates_per_class,
        "max_detections": rules.max_detections,
        # lowest score to show, by class
        "show_from": dict(zip(detector.classes, detector.score_thresholds(), strict=True)),
    }


def metadata(detector: Detector) -> dict[str, str]:
    """Returns the result of `describe` as strings, in JSON where they are not strings already."""
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in describe(detector).items()}
