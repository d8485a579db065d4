"""detect and gaussian soft_nms, which pass through exp: equal to the reference but where rounding decides the result."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import assume
from hypothesis import strategies as st
from torch import Tensor

import ssd_ops
from ssd_ops import reference
from tests.ops.boxes import assert_all_equal, assert_equal, random_boxes
from tests.ops.conftest import Implementation
from tests.ops.properties import rows
from tests.ops.properties import strategies as ours
from tests.ops.properties.strategies import cases
from tests.ops.properties.tolerance import assert_within

DTYPES = st.sampled_from((torch.float32, torch.float32, torch.float64, torch.float16, torch.bfloat16))
SHAPES = st.tuples(ours.IMAGES, ours.SIZES, st.sampled_from((2, 3, 5, 33, 2, 1)))
# Scores and sides of random inputs: an exponential is 4 ulp apart, a sum of 33 of them a little more.
APART = 1e-4
PLAIN = {
    "candidates_per_class": st.sampled_from((400, 1, 3, 20)),
    "max_detections": st.sampled_from((20, 1, 5, 200)),
    "variances": ours.variances(),
    "clip": st.booleans(),
    "suppress_equal": ours.SUPPRESS_EQUAL,
    "multi_label": st.booleans(),
}


@st.composite
def exact(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor, dict[str, Any]]:
    """Logits whose softmax is 1 / k, and deltas that change no size: exp is called with 0 and -inf only."""
    images, priors, classes = draw(SHAPES)
    generator = torch.Generator().manual_seed(draw(ours.SEEDS))
    pool = draw(rows.pool(classes, draw(DTYPES), exact=True))
    logits = pool[torch.randint(len(pool), (images, priors), generator=generator)]
    loc = draw(ours.boxes(images, priors, dtype=draw(DTYPES)))
    loc[..., 2:] = 0
    options = {
        "score_threshold": st.sampled_from((0.2, 0.01, 0.0, -1.0, 1 / 3, 0.1)),
        "iou_threshold": ours.IOU_THRESHOLDS,
        "min_size": ours.MIN_SIZES,
    }
    return loc, logits, draw(ours.boxes(priors, dtype=draw(DTYPES))), draw(st.fixed_dictionaries(options | PLAIN))


@cases(drawn=exact())
def test_exact_detect(other: Implementation, drawn: tuple[Tensor, Tensor, Tensor, dict[str, Any]]) -> None:
    *inputs, options = drawn
    assert_all_equal(other.detect(*inputs, **options), reference.detect(*inputs, **options))


def clear_of(values: Tensor, candidates: tuple[float, ...]) -> float:
    """Returns the first candidate that is near none of the values."""
    clear = (c for c in candidates if not bool(((values - c).abs() < APART).any()))
    found = next(clear, None)
    assume(found is not None)
    return float(found or 0)


@st.composite
def rounded(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor, dict[str, Any]]:
    """Random logits and deltas; scores of different rows differ clearly; no score, IoU or side is at its threshold."""
    images, priors, classes = draw(SHAPES)
    generator, dtypes = torch.Generator().manual_seed(draw(ours.SEEDS)), [draw(DTYPES) for _ in range(3)]
    options = draw(st.fixed_dictionaries(PLAIN))
    pool = draw(rows.pool(classes, dtypes[0], exact=False))
    probability = torch.softmax(pool.double(), dim=1)
    pool = pool[rows.merge_close(probability[:, 1:].where(probability[:, 1:] > 1e-3, torch.nan), APART)]
    lowest = draw(st.sampled_from((0.05, 0.2, 0.01)))
    score_threshold = clear_of(torch.softmax(pool.double(), 1), tuple(lowest * 1.1**k for k in range(9)))
    logits = pool[torch.randint(len(pool), (images, priors), generator=generator)]
    loc = (torch.randn(images, priors, 4, generator=generator) * draw(st.sampled_from((1.0, 4.0)))).to(dtypes[1])
    boxes = random_boxes(priors, seed=draw(ours.SEEDS), dtype=dtypes[2])
    decoded = reference.decode_boxes(loc.double(), boxes.double(), options["variances"])
    decoded = decoded.clamp(0, 1) if options["clip"] else decoded
    sides = decoded[..., 2:] - decoded[..., :2]
    assume(not ((sides > 0) & (sides < 1e-3)).any())
    lowest = draw(st.sampled_from((0.45, 0.2, 0.7)))
    iou_threshold = clear_of(reference.box_iou(decoded, decoded), tuple(lowest + k / 200 for k in range(40)))
    min_size = clear_of(sides, tuple(0.1 + k / 200 for k in range(40))) if draw(st.booleans()) else 0.0
    clear = {"score_threshold": score_threshold, "iou_threshold": iou_threshold, "min_size": min_size}
    return loc, logits, boxes, options | clear


@cases(drawn=rounded())
def test_rounded_detect(other: Implementation, drawn: tuple[Tensor, Tensor, Tensor, dict[str, Any]]) -> None:
    *inputs, options = drawn
    compare(other.detect(*inputs, **options), reference.detect(*inputs, **options))


def compare(found: ssd_ops.Detections, expected: ssd_ops.Detections) -> None:
    assert_equal(found.counts, expected.counts)
    assert_equal(found.labels, expected.labels)
    near = 32 * torch.finfo(expected.scores.dtype).eps
    assert_within(found.scores, expected.scores, near * expected.scores.double().abs())
    assert_within(found.boxes, expected.boxes, near * (1 + expected.boxes.double().abs()))


@st.composite
def soft(draw: st.DrawFn) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """Boxes on a lattice, whose IoUs are equal or differ clearly, scores on levels, and a sigma that decides no order."""
    images, count, classes = draw(ours.IMAGES), draw(ours.SIZES), draw(st.sampled_from((2, 3, 2, 1)))
    generator = torch.Generator().manual_seed(draw(ours.SEEDS))
    lattice = (random_boxes(images, count, seed=draw(ours.SEEDS)) * 32).round() / 32
    coarse = draw(ours.boxes(images, count, kinds=("grid", "inverted")))
    boxes = torch.where(
        torch.rand(images, count, 1, generator=generator) < draw(st.sampled_from((0.5, 1))), lattice, coarse
    )
    boxes = with_specials(draw, boxes, generator).to(draw(DTYPES))
    levels = torch.randint(-4, 17, (images, count, classes), generator=generator) / 16
    scores = with_specials(draw, levels, generator).to(draw(DTYPES))
    options = {
        "score_threshold": draw(st.sampled_from((0.05, 0.3, 1e-3, -1.0 if count < 9 else 0.1))),
        "max_detections": draw(st.sampled_from((20, 1, 5, 200))),
    }
    sigma = draw(st.floats(0.25, 2))
    results = [reference.soft_nms(boxes, scores, sigma=sigma * f, **options) for f in (1, 1 - APART, 1 + APART)]
    for result in results[1:]:
        assume(all(a.equal(b) for a, b in zip(result[2:], results[0][2:], strict=True)))
        assume(result.boxes.nan_to_num(-7).equal(results[0].boxes.nan_to_num(-7)))
    return boxes, scores, {**options, "sigma": sigma}


def with_specials(draw: st.DrawFn, values: Tensor, generator: torch.Generator) -> Tensor:
    at = torch.rand(values.shape, generator=generator) < draw(st.sampled_from((0.0, 0.02, 0.1)))
    return torch.where(at, rows.SPECIAL[torch.randint(3, values.shape, generator=generator)], values)


@cases(drawn=soft())
def test_gaussian_soft_nms(other: Implementation, drawn: tuple[Tensor, Tensor, dict[str, Any]]) -> None:
    boxes, scores, options = drawn
    found, expected = (f.soft_nms(boxes, scores, **options) for f in (other, reference))
    assert_equal(found.counts, expected.counts)
    assert_equal(found.labels, expected.labels)
    assert_equal(found.boxes, expected.boxes)
    # Each of at most 65 boxes lowers a score by an exponential.
    near = 65 * 5 * torch.finfo(expected.scores.dtype).eps
    assert_within(found.scores, expected.scores, near * expected.scores.double().abs() + 1e-30)
