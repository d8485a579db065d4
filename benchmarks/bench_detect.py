"""`detect`: softmax, threshold, decoding and per-class NMS of SSD300 with 91 classes.

python benchmarks/bench_detect.py [--quick] [--json FILE]
"""

from __future__ import annotations

import _path  # noqa: F401
import torch
from torch import Tensor

import ssd_ops
from benchmarks.harness import Case, main
from benchmarks.inputs import ssd300_priors, trained_logits
from benchmarks.peers import postprocess

SCORE_THRESHOLD, IOU_THRESHOLD, CANDIDATES_PER_CLASS, MAX_DETECTIONS = 0.01, 0.45, 400, 200


def cases(device: torch.device, quick: bool) -> list[Case]:
    """Returns the cases of this benchmark; small ones for --quick."""
    if quick:
        return [_case("trained-like", 1, 21, device)]
    return [_case(kind, batch, 91, device) for kind in ("trained-like", "worst") for batch in (1, 8, 32)]


def _case(kind: str, batch: int, classes: int, device: torch.device) -> Case:
    priors = ssd300_priors().to(device)

    def make(generator: torch.Generator, device: torch.device) -> tuple[Tensor, Tensor]:
        loc = torch.randn(batch, len(priors), 4, generator=generator) * 0.5
        if kind == "worst":  # nearly every prior exceeds the threshold in some classes
            logits = torch.randn(batch, len(priors), classes, generator=generator)
        else:
            logits = trained_logits(batch, len(priors), classes, 200, generator)
        return loc.to(device), logits.to(device)

    options = {
        "score_threshold": SCORE_THRESHOLD,
        "iou_threshold": IOU_THRESHOLD,
        "candidates_per_class": CANDIDATES_PER_CLASS,
        "max_detections": MAX_DETECTIONS,
    }
    candidates = {
        "compiled": lambda loc, logits: ssd_ops.detect(loc, logits, priors, **options),
        "reference": lambda loc, logits: ssd_ops.reference.detect(loc, logits, priors, **options),
        "torchvision": lambda loc, logits: as_detections(postprocess(loc, logits, priors, *options.values())),
    }
    if batch > 1:  # the peer has been checked against the reference at batch 1
        del candidates["reference"]
    return Case(
        f"detect, {kind}, {batch} x {len(priors)} x {classes}",
        make,
        candidates,
        check,
        bytes_moved=4 * batch * len(priors) * (classes + 4),
        input_sets=2,
        check_against="reference" if batch == 1 else "torchvision",
    )


def as_detections(found: list[dict[str, Tensor]]) -> ssd_ops.Detections:
    """Pads torchvision's lists of detections like `ssd_ops.detect`."""
    counts = torch.tensor([len(image["scores"]) for image in found], device=found[0]["scores"].device)
    pad = torch.nn.utils.rnn.pad_sequence
    parts = [pad([image[name] for image in found], batch_first=True) for name in ("boxes", "scores", "labels")]
    return ssd_ops.Detections(*parts, counts)


def check(result: ssd_ops.Detections, expected: ssd_ops.Detections) -> None:
    """Checks that scores agree up to rounding, and 90% of labels and boxes: close scores may be in another order."""
    for b in range(len(expected.counts)):
        count, found = int(expected.counts[b]), int(result.counts[b])
        assert abs(found - count) <= 1 + count // 100, f"{found} detections, {count} expected"
        common = min(found, count)
        torch.testing.assert_close(result.scores[b, :common], expected.scores[b, :common], rtol=1e-3, atol=1e-5)
        if common:
            same = (result.labels[b, :common] == expected.labels[b, :common]).float().mean()
            assert same > 0.9, f"labels differ: {same:.0%} equal"
            near = (result.boxes[b, :common] - expected.boxes[b, :common]).abs().amax(dim=1) < 1e-3
            assert near.float().mean() > 0.9, f"boxes differ: {near.float().mean():.0%} equal"


if __name__ == "__main__":
    main(__doc__.splitlines()[0], cases)
