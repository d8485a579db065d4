"""Peak memory of ops on the GPU, results included, at the sizes of SSD300."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import ssd_ops
from tests.ops.boxes import random_boxes

pytestmark = pytest.mark.cuda


def check_peak(call: Callable[[], Any], max_bytes: int, gpu: torch.device) -> None:
    call()  # loads the kernels
    torch.cuda.synchronize(gpu)
    before = torch.cuda.memory_stats(gpu)["requested_bytes.all.current"]
    torch.cuda.reset_peak_memory_stats(gpu)
    call()
    peak = torch.cuda.memory_stats(gpu)["requested_bytes.all.peak"] - before  # without what the allocator rounds up
    assert peak <= max_bytes, f"{peak:,} bytes"


@pytest.mark.parametrize("op", ("detect", "multiclass_nms"))
@pytest.mark.parametrize(("images", "max_bytes"), ((1, 7_000_000), (32, 16_500_000)))
def test_detections_of_many_candidates(gpu: torch.device, op: str, images: int, max_bytes: int) -> None:
    """All lists of candidates together take at most 15 MB up to 32 images; nearly all scores are candidates here."""
    boxes, scores = torch.rand(images, 8732, 4, device=gpu), torch.rand(images, 8732, 91, device=gpu)
    options = {"candidates_per_class": 400, "max_detections": 200, "score_threshold": 0.01, "iou_threshold": 0.45}
    if op == "detect":
        check_peak(lambda: ssd_ops.detect(boxes, scores, boxes[0], **options), max_bytes, gpu)
    else:
        check_peak(lambda: ssd_ops.multiclass_nms(boxes, scores, **options), max_bytes, gpu)


def test_nms_of_few_boxes(gpu: torch.device) -> None:
    boxes, scores = random_boxes(8, seed=1).to(gpu), torch.rand(8, device=gpu)
    check_peak(lambda: ssd_ops.nms(boxes, scores, 0.5), 64_000, gpu)


def test_loss(gpu: torch.device) -> None:
    """At most one float per prior for the gradient, and as much of workspace."""
    loc, logits = torch.rand(32, 8732, 4, device=gpu), torch.rand(32, 8732, 21, device=gpu)
    labels = (torch.rand(32, 8732, device=gpu) < 0.01).long()
    check_peak(lambda: ssd_ops.multibox_loss(loc, logits, loc, labels), 2 * 4 * 32 * 8732, gpu)
