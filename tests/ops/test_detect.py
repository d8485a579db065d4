"""Post-processing of raw outputs. Scores and boxes pass through exp, which libraries round differently.

So inputs are random, where scores differ by more than that: counts and labels must be equal, numbers close. Where no
exp decides (equal logits, zero size deltas) results are compared exactly.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

import ssd_ops
from tests.ops.boxes import assert_all_equal, assert_equal, random_boxes
from tests.ops.conftest import Implementation
from tests.ops.remembered import reference

EXP = {torch.float32: {"rtol": 1e-5, "atol": 1e-6}, torch.float64: {"rtol": 1e-12, "atol": 1e-14}}


def inputs(batch: int, priors: int, classes: int, dtype: torch.dtype = torch.float32, spread: float = 3.0) -> Any:
    generator = torch.Generator().manual_seed(batch * 10007 + priors * 101 + classes)
    loc = torch.randn(batch, priors, 4, generator=generator)
    logits = torch.randn(batch, priors, classes, generator=generator) * spread
    return loc.to(dtype), logits.to(dtype), random_boxes(priors).to(dtype)


def compare(impl: Implementation, *args: torch.Tensor, **options: Any) -> ssd_ops.Detections:
    expected, found = reference.detect(*args, **options), impl.detect(*args, **options)
    assert_equal(found.counts, expected.counts)
    assert_equal(found.labels, expected.labels)
    tolerance = EXP[expected.scores.dtype]
    torch.testing.assert_close(found.scores, expected.scores, **tolerance)
    torch.testing.assert_close(found.boxes, expected.boxes, equal_nan=True, **tolerance)
    return found


def test_literal(impl: Implementation) -> None:
    # Softmax of (0, log 3) is (1/4, 3/4), of (log 3, 0) the reverse; prior 2 repeats prior 0 and is suppressed.
    logits = torch.tensor([[0.0, 3.0], [3.0, 1.0], [1.0, 2.0]]).log()[None]
    logits[0, 0, 0] = 0.0
    priors = torch.tensor([[0.1, 0.1, 0.3, 0.3], [0.5, 0.5, 0.9, 0.9], [0.1, 0.1, 0.3, 0.3]])
    loc = torch.zeros(1, 3, 4)
    loc[0, 1, 0] = 20.0  # 20 * 0.1 * 0.4 to the right: 1.3 .. 1.7, clamped to 1
    found = impl.detect(loc, logits, priors, score_threshold=0.2, max_detections=4)
    assert found.counts.tolist() == [2]
    assert found.labels.tolist() == [[1, 1, 0, 0]]
    torch.testing.assert_close(found.scores, torch.tensor([[0.75, 0.25, 0, 0]]))
    torch.testing.assert_close(found.boxes[0, 0], priors[0])
    torch.testing.assert_close(found.boxes[0, 1], torch.tensor([1.0, 0.5, 1.0, 0.9]))
    found = impl.detect(loc, logits, priors, score_threshold=0.2, max_detections=4, clip=False)
    torch.testing.assert_close(found.boxes[0, 1], torch.tensor([1.3, 0.5, 1.7, 0.9]))


SIZES = [(1, 2), (63, 3), (64, 17), (65, 2), (200, 3), (9, 33), (9, 40), (70, 64), (33, 91)]


@pytest.mark.parametrize(("priors", "classes"), SIZES)
def test_sizes(impl: Implementation, priors: int, classes: int) -> None:
    compare(impl, *inputs(2, priors, classes), score_threshold=0.1, max_detections=20)


@pytest.mark.parametrize("classes", (193, 256, 257))
def test_long_rows_of_float64(impl: Implementation, classes: int) -> None:
    # A tile of 32 of them has more shared memory than a block of sm_75, which the emulator has the limits of.
    compare(impl, *inputs(1, 40, classes, torch.float64, spread=6.0), score_threshold=0.1, max_detections=20)


@pytest.mark.parametrize("shape", ((0, 5, 3), (2, 0, 3), (2, 5, 1)))
def test_empty(impl: Implementation, shape: tuple[int, int, int]) -> None:
    assert compare(impl, *inputs(*shape)).counts.tolist() == [0] * shape[0]


@pytest.mark.parametrize("threshold", (-0.5, 0.0, 0.01, 0.3, 0.9, 0.9999, 1.0, 2.0))
def test_thresholds(impl: Implementation, threshold: float) -> None:
    compare(impl, *inputs(1, 60, 4, spread=6.0), score_threshold=threshold, max_detections=300)


@pytest.mark.parametrize("candidates", (1, 5, 400))
def test_limits(impl: Implementation, candidates: int) -> None:
    compare(impl, *inputs(2, 80, 4), candidates_per_class=candidates, max_detections=7, variances=(0.2, 0.1, 0.3, 0.2))


@pytest.mark.parametrize("dtype", (torch.float64, torch.float16, torch.bfloat16))
def test_dtypes(impl: Implementation, dtype: torch.dtype) -> None:
    loc, logits, priors = inputs(2, 60, 5, dtype)
    logits = logits + torch.rand(2, 60, 5, dtype=torch.float64).mul(1e-3).to(dtype)
    compare(impl, loc, logits, priors, candidates_per_class=1000)
    compare(impl, loc.float(), logits, priors.float())
    compare(impl, loc, logits.float(), priors.float())


def test_tied_scores(impl: Implementation) -> None:
    """Equal logits give equal scores on every device, so ties go to the lowest class, then prior."""
    logits, loc = torch.zeros(2, 40, 4), torch.zeros(2, 40, 4)
    found = impl.detect(loc, logits, random_boxes(40), candidates_per_class=30)
    expected = reference.detect(loc, logits, random_boxes(40), candidates_per_class=30)
    assert_all_equal(found[2:], expected[2:])
    torch.testing.assert_close(found.boxes, expected.boxes)


def test_nan_and_inf(impl: Implementation) -> None:
    loc, logits, priors = inputs(1, 64, 5)
    values = torch.tensor([float("nan"), float("inf"), -float("inf")])
    logits[0, torch.arange(0, 48), torch.arange(0, 48) % 5] = values.repeat(16)
    logits[0, 50] = -float("inf")
    loc[0, 51:57] = torch.tensor([float("nan"), float("inf")]).repeat(12).view(6, 4)
    found = compare(impl, loc, logits, priors, score_threshold=0.0, max_detections=400)
    assert not found.scores.isnan().any()


def test_huge_logits(impl: Implementation) -> None:
    loc, logits, priors = inputs(1, 40, 3)
    compare(impl, loc, logits * 1e4, priors, iou_threshold=0.99)
    compare(impl, loc, logits - 3e38, priors)


def test_non_contiguous(impl: Implementation) -> None:
    loc, logits, priors = inputs(2, 30, 4)
    compare(
        impl, loc.transpose(0, 1).contiguous().transpose(0, 1), logits.mT.contiguous().mT, priors.t().contiguous().t()
    )


@pytest.mark.parametrize("threshold", (-1.0, 0.01, 0.4, 0.6))
@pytest.mark.parametrize("classes", (1, 2, 5, 33, 70))
def test_multi_label_false(impl: Implementation, classes: int, threshold: float) -> None:
    loc, logits, priors = inputs(2, 60, classes, spread=6.0)
    found = compare(impl, loc, logits, priors, multi_label=False, score_threshold=threshold, max_detections=200)
    best = logits.argmax(2)
    assert found.counts.sum() <= (best > 0).sum()
    if threshold < 0.01 and classes > 1:
        alone = impl.detect(loc, logits, priors, multi_label=False, score_threshold=0.01, iou_threshold=1.0)
        assert alone.counts.tolist() == (best > 0).sum(1).tolist()  # none suppressed, none below the threshold


def test_multi_label_false_ties_go_to_the_lowest_class(impl: Implementation) -> None:
    logits = torch.zeros(1, 5, 40)
    logits[0, 1, [2, 3, 35]] = 1.0
    logits[0, 2, [33, 39]] = 1.0
    logits[0, 3, [0, 4]] = 1.0  # the background
    logits[0, 4, 5], logits[0, 4, 6] = 1.0, torch.nextafter(torch.tensor(1.0), torch.tensor(2.0))  # one score for both
    loc, priors = torch.zeros(1, 5, 4), torch.tensor([[0.1, 0.1, 0.2, 0.2]]).repeat(5, 1)
    options = {"score_threshold": 0.0, "max_detections": 6}
    found = impl.detect(loc, logits, priors, multi_label=False, **options)
    assert found.counts.tolist() == [3] and sorted(found.labels[0, :3].tolist()) == [2, 6, 33]
    logits[0, 0, 7] = float("nan")
    assert impl.detect(loc, logits, priors, multi_label=False, **options).counts.tolist() == [3]


def test_min_size(impl: Implementation) -> None:
    loc, logits, priors = inputs(2, 70, 4)
    full = compare(impl, loc, logits, priors, min_size=0.05, candidates_per_class=10)
    sides = full.boxes[..., 2:] - full.boxes[..., :2]
    assert (sides[full.scores > 0] >= 0.05).all()
    # After clipping: half of a prior of 0.1 lies outside the image.
    priors = torch.tensor([[-0.05, 0.1, 0.05, 0.2], [0.5, 0.5, 0.6, 0.6]])
    logits, loc = torch.tensor([[[0.0, 1], [0, 1]]]), torch.zeros(1, 2, 4)
    assert impl.detect(loc, logits, priors, min_size=0.09).counts.tolist() == [1]
    assert impl.detect(loc, logits, priors, min_size=0.09, clip=False).counts.tolist() == [2]


def test_equals_multiclass_nms_of_decoded_boxes(impl: Implementation) -> None:
    loc, logits, priors = inputs(2, 70, 4)
    options = {"score_threshold": 0.05, "iou_threshold": 0.45, "candidates_per_class": 50, "max_detections": 30}
    boxes = impl.decode_boxes(loc, priors.expand(2, -1, -1).contiguous()).clamp(0, 1)
    expected = impl.multiclass_nms(boxes, torch.softmax(logits, dim=2), **options)
    found = impl.detect(loc, logits, priors, **options)
    assert_all_equal(found[2:], expected[2:])
    torch.testing.assert_close(found.boxes, expected.boxes)


def test_more_candidates_than_capacity(impl: Implementation) -> None:
    """The GPU skips candidates that 4096 others precede; in image 1 a crowd among those makes a refill necessary."""
    if impl.name == "reference":
        pytest.skip("compared with")
    loc, logits, priors = inputs(2, 3200, 4, spread=0.5)
    options = {"candidates_per_class": 3200, "iou_threshold": 0.3}
    for threshold in (0.01, 0.1):
        compare(impl, loc, logits, priors, score_threshold=threshold, max_detections=30, **options)
    priors[10:], loc[1, 10:] = torch.tensor([0.8, 0.8, 0.9, 0.9]), 0.0
    logits[1, :10] += torch.tensor([3.0, 0, 0, 0])
    compare(impl, loc, logits, priors, score_threshold=0.01, max_detections=300, **options)


@pytest.mark.parametrize("threads", (1, 2, 3))
def test_threads_and_sorted_chunks(threads: int) -> None:
    """Nearly all scores of a large image are candidates: more than the CPU holds at once, in parts and whole."""
    loc, logits, priors = inputs(1, 3000, 60, spread=0.3)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = ssd_ops.detect(loc, logits, priors)
    finally:
        torch.set_num_threads(before)
    expected = ssd_ops.multiclass_nms(
        ssd_ops.decode_boxes(loc, priors[None]).clamp(0, 1),
        torch.softmax(logits, dim=2),
        score_threshold=0.01,
        iou_threshold=0.45,
        candidates_per_class=400,
        max_detections=200,
    )
    assert_all_equal(found[2:], expected[2:])
    torch.testing.assert_close(found.scores, expected.scores, **EXP[torch.float32])


def test_compile() -> None:
    args = inputs(2, 20, 3)
    compiled = torch.compile(ssd_ops.detect, fullgraph=True, backend="eager")
    assert_all_equal(compiled(*args), ssd_ops.detect(*args))
