"""A model of the server, with post-processing that each request may change."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ssd.inference.detector import Detector
from ssd.inference.result import Result
from ssd.models.torchvision_io import split_detections
from ssd.presets import Preset


class Rules(NamedTuple):
    """Post-processing that a request specifies.

    Args:
        nms_threshold: IoU threshold of NMS; None is that of the model, or its Soft-NMS.
        candidates: Whether to return the candidates before NMS.
    """

    nms_threshold: float | None = None
    candidates: bool = False


class Output(NamedTuple):
    """Boxes of one image, float32 `[N, 4]` xyxy normalized to it, scores `[N]` in descending order, labels `[N]`."""

    boxes: Tensor
    scores: Tensor
    labels: Tensor


class ServedModel:
    """A detector with a name.

    Args:
        name: Name in requests.
        detector: Trained model.
        max_candidates: Max candidates per image, those with the highest scores.
    """

    def __init__(self, name: str, detector: Detector, max_candidates: int) -> None:
        self.name = name
        self.detector = detector
        self.engine = detector.engine
        self.max_candidates = max_candidates

    def detect(self, images: Sequence[Tensor], rules: Sequence[Rules]) -> tuple[list[Output], float, float]:
        """Runs the network once on all images, and the post-processing once for each kind of rules.

        Args:
            images: uint8 RGB `[3, H, W]` each.
            rules: Rules of each image.

        Returns:
            Outputs in the order of the images, and the seconds of network and post-processing.
        """
        start = time.perf_counter()
        packed = self.engine.pack(images)
        if self.engine.device.type == "cuda" and set(rules) == {Rules()}:  # one CUDA graph does both
            outputs = _split(self.engine.detect(packed))
            return outputs, time.perf_counter() - start, 0.0
        loc, logits = self.engine.outputs(packed)
        if loc.is_cuda:
            torch.cuda.synchronize(loc.device)
        middle = time.perf_counter()
        found: dict[int, Output] = {}
        with torch.no_grad():
            for kind in set(rules):
                rows = [row for row, rule in enumerate(rules) if rule == kind]
                part = (loc, logits) if len(rows) == len(rules) else (loc[rows], logits[rows])
                outputs = _split(self.detector.model.detect(*part, rules=self._preset(kind)))
                found.update(zip(rows, outputs, strict=True))
        return [found[row] for row in range(len(rules))], middle - start, time.perf_counter() - middle

    def _preset(self, rules: Rules) -> Preset:
        preset = self.detector.model.preset
        if rules.candidates:
            # An IoU is at most 1, so that NMS suppresses nothing. No class can have more among the best of all.
            limit = self.max_candidates
            per_class = min(preset.candidates_per_class or limit, limit)
            return replace(
                preset,
                nms_iou_threshold=1.0,
                suppress_equal=False,
                candidates_per_class=per_class,
                max_detections=limit,
                soft_nms_sigma=None,
            )
        if rules.nms_threshold is not None:
            return replace(preset, nms_iou_threshold=rules.nms_threshold, soft_nms_sigma=None)
        return preset

    def result(
        self, output: Output, size: tuple[int, int], score_threshold: float | None, classes: Sequence[str] | None
    ) -> dict[str, Any]:
        """Returns width, height and the detections of an image as `Result.to_dict` does.

        Args:
            output: Boxes of the image.
            size: Its height and width.
            score_threshold: Minimum score; None uses the thresholds of the detector.
            classes: Names of the classes to keep; None keeps all.
        """
        thresholds = self.detector.label_thresholds(score_threshold, classes)
        keep = output.scores >= thresholds[output.labels]
        height, width = size
        boxes = output.boxes[keep] * torch.tensor([width, height, width, height])
        image = torch.empty(1, dtype=torch.uint8).expand(3, height, width)  # only its size is used
        return Result(boxes, output.labels[keep], output.scores[keep], self.detector.classes, image).to_dict()

    def candidates(self, output: Output, size: tuple[int, int]) -> dict[str, Any]:
        """Returns width, height and rows `[label, score, x1, y1, x2, y2]`, boxes in pixels, label 1 for the first class."""
        height, width = size
        boxes = (output.boxes * torch.tensor([width, height, width, height])).tolist()
        rows = zip(output.labels.tolist(), output.scores.tolist(), boxes, strict=True)
        found = [[label, round(score, 5), *(round(x, 2) for x in box)] for label, score, box in rows]
        return {"width": width, "height": height, "candidates": found}

    def about(self) -> dict[str, Any]:
        """Returns name, classes and rules of the model."""
        model, detector = self.detector.model, self.detector
        return {
            "name": self.name,
            "network": str(model.build_args.get("name", "")),
            "image_size": model.image_size,
            "device": str(self.engine.device),
            "classes": list(detector.classes),
            "score_thresholds": detector.score_thresholds(),
            "min_score": model.preset.score_threshold,
            "nms_threshold": model.preset.nms_iou_threshold,
            "suppress_equal": model.preset.suppress_equal,
            "soft_nms_sigma": model.preset.soft_nms_sigma,
            "max_detections": model.preset.max_detections,
        }


def _split(detections: Any) -> list[Output]:
    on_cpu = type(detections)(*(tensor.cpu() for tensor in detections))
    rows = split_detections(on_cpu, [(1, 1)] * len(on_cpu.counts))
    return [Output(row["boxes"].float(), row["scores"].float(), row["labels"]) for row in rows]
