"""The post-process: softmax, threshold, decode and NMS per class, of SSD300 with 91 classes.

python benchmarks/bench_detect.py [--quick] [--json FILE]
"""

from __future__ import annotations

from typing import Any

import _path  # noqa: F401
import torch
from torch import Tensor

import ssd_ops
from benchmarks.harness import Case, main
from benchmarks.inputs import ssd300_priors, trained_logits
from benchmarks.peers import postprocess

SCORE, IOU, TOP, MOST = 0.01, 0.45, 400, 200


def cases(device: torch.device, quick: bool) -> list[Case]:
    """Return the cases of this benchmark; small ones where it should only show that it runs."""
    if quick:
        return [_case("trained-like", 1, 21, device)]
    return [_case(kind, batch, 91, device) for kind in ("trained-like", "worst") for batch in (1, 8, 32)]


def _case(kind: str, batch: int, classes: int, device: torch.device) -> Case:
    priors = ssd300_priors().to(device)

    def make(generator: torch.Generator, device: torch.device) -> tuple[Tensor, Tensor]:
        loc = torch.randn(batch, len(priors), 4, generator=generator) * 0.5
        if kind == "worst":  # nearly every prior stands above the threshold in some classes
            logits = torch.randn(batch, len(priors), classes, generator=generator)
        else:
            logits = trained_logits(batch, len(priors), classes, 200, generator)
        return loc.to(device), logits.to(device)

    options = {
        "score_threshold": SCORE,
        "iou_threshold": IOU,
        "candidates_per_class": TOP,
        "max_detections": MOST,
    }
    return Case(
        f"detect, {kind}, {batch} x {len(priors)} x {classes}",
        make,
        {
            "compiled": lambda loc, logits: ssd_ops.detect(loc, logits, priors, **options),
            "reference": lambda loc, logits: ssd_ops.reference.detect(loc, logits, priors, **options),
            "torchvision": lambda loc, logits: postprocess(loc, logits, priors, SCORE, IOU, TOP, MOST),
        },
        _check,
        bytes_moved=4 * batch * len(priors) * (classes + 4),
        input_sets=2,
    )


def _check(result: Any, expected: ssd_ops.Detections) -> None:
    """Scores must agree to rounding; labels and boxes wherever scores are not within rounding of each other."""
    for b in range(len(expected.counts)):
        count = int(expected.counts[b])
        if isinstance(result, ssd_ops.Detections):
            found, boxes, labels = result.scores[b, : result.counts[b]], result.boxes[b], result.labels[b]
        else:
            found, boxes, labels = result[b]["scores"], result[b]["boxes"], result[b]["labels"]
        assert abs(len(found) - count) <= 1 + count // 100, f"{len(found)} detections, {count} expected"
        least = min(len(found), count)
        torch.testing.assert_close(found[:least], expected.scores[b, :least], rtol=1e-3, atol=1e-5)
        same = labels[:least] == expected.labels[b, :least]
        assert same.float().mean() > 0.9 if least else True, f"labels differ: {same.float().mean():.0%} equal"
        near = (boxes[:least] - expected.boxes[b, :least]).abs().amax(dim=1) < 1e-3
        assert near.float().mean() > 0.9 if least else True, f"boxes differ: {near.float().mean():.0%} equal"


if __name__ == "__main__":
    main(__doc__.splitlines()[0], cases)
