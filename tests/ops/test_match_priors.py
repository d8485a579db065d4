"""Prior matching: label, ground truth and encoded box of every prior."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.models.detection._utils import BoxCoder, SSDMatcher
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.image_list import ImageList

import ssd_ops
from ssd_ops import PriorMatches
from tests.ops.boxes import assert_equal, degenerate_boxes, random_boxes, tied_boxes
from tests.ops.conftest import Implementation
from tests.ops.remembered import reference

RULES = ("greedy", "last", "none")
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
# The sizes of encoded boxes pass through log, which libraries round differently, by a unit of the last place or two.
LOG = {torch.float32: {"rtol": 1e-6, "atol": 1e-6}, torch.float64: {"rtol": 1e-14, "atol": 1e-14}}


def labels_of(boxes: Tensor) -> Tensor:
    return torch.arange(len(boxes)) % 20 + 1


def assert_same(actual: PriorMatches, expected: PriorMatches) -> None:
    assert_equal(actual.labels, expected.labels)
    assert_equal(actual.gt_index, expected.gt_index)
    assert_equal(actual.loc_targets[..., :2], expected.loc_targets[..., :2])
    log = LOG[expected.loc_targets.dtype]
    torch.testing.assert_close(actual.loc_targets[..., 2:], expected.loc_targets[..., 2:], equal_nan=True, **log)


def compare(impl: Implementation, boxes: Tensor, priors: Tensor, *bounds: int, **options: Any) -> PriorMatches:
    """Compares with the reference; `bounds` are the offsets between the first 0 and the number of boxes."""
    offsets = torch.tensor([0, *bounds, len(boxes)])
    arguments = boxes, labels_of(boxes), priors
    actual = impl.match_priors(*arguments, offsets=offsets, **options)
    assert_same(actual, reference.match_priors(*arguments, offsets=offsets, **options))
    return actual


def test_literal(impl: Implementation) -> None:
    priors = torch.tensor([[0.0, 0, 2, 2], [2, 0, 4, 2], [0, 2, 2, 4], [8, 8, 9, 9]])
    # IoU: the first object 1 with prior 0; the second 1/3 with priors 0 and 1; the third 1/3 with priors 0 and 2.
    boxes = torch.tensor([[0.0, 0, 2, 2], [1, 0, 3, 2], [0, 1, 2, 3]])
    expected = {"greedy": [0, 1, 2, -1], "last": [2, -1, -1, -1], "none": [0, -1, -1, -1]}
    for rule, index in expected.items():
        result = compare(impl, boxes, priors, rule=rule)
        assert result.gt_index.tolist() == [index]
        assert result.labels.tolist() == [[g + 1 for g in index]]
    # Centers are half a prior apart; 0.5 / 0.1 = 5.
    targets = impl.match_priors([boxes], [labels_of(boxes)], priors).loc_targets
    assert_equal(targets, torch.tensor([[[0.0, 0, 0, 0], [-5, 0, 0, 0], [0, -5, 0, 0], [0, 0, 0, 0]]]))


def test_ignore_literal(impl: Implementation) -> None:
    priors = torch.tensor([[0.0, 0, 2, 2], [4, 0, 6, 2], [8, 0, 10, 2], [20, 0, 22, 2]])
    boxes = torch.tensor([[0.0, 0, 2, 2], [0, 0, 2, 2], [4, 0, 6, 2], [9, 0, 11, 2]])
    ignore = torch.tensor([True, False, True, True])
    result = compare(impl, boxes, priors, ignore=ignore)
    assert result.labels.tolist() == [[2, -1, 0, 0]]  # the last ignored object overlaps its prior too little
    assert result.gt_index.tolist() == [[1, -1, -1, -1]]


@pytest.mark.parametrize("match_equal", [True, False])
def test_threshold(impl: Implementation, match_equal: bool) -> None:
    priors = torch.tensor([[0.0, 0, 1, 1], [0, 0, 1, 2], [0, 0, 1, 3]])  # IoU with the object: 1, 1/2, 1/3
    rounded = torch.tensor(1 / 3).item()  # above 1/3
    for threshold, reached in ((0.5, 2), (1 / 3, 3), (rounded, 3), (1.0, 1), (1e-300, 3), (2.0, 0), (float("inf"), 0)):
        result = compare(impl, priors[:1], priors, iou_threshold=threshold, rule="none", match_equal=match_equal)
        exact = threshold in (0.5, rounded, 1.0)
        assert (result.labels > 0).sum() == reached - (not match_equal and exact)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("count", [1, 31, 32, 33, 63, 64, 65, 200, 255, 256, 257, 600])
def test_sizes(impl: Implementation, count: int, rule: str) -> None:
    priors = random_boxes(count, seed=count)
    boxes = random_boxes(11 + count % 40, seed=1)
    for threshold in (0.2, 0.6):
        compare(impl, boxes, priors, 3, 3, 10, rule=rule, iou_threshold=threshold)


@pytest.mark.parametrize("rule", RULES)
def test_ties(impl: Implementation, rule: str) -> None:
    for seed in range(6):
        priors = tied_boxes(90, seed=seed).repeat(2, 1)  # every prior twice
        boxes = tied_boxes(70, seed=seed + 100)
        ignore = torch.arange(70) % 5 == 0
        compare(impl, boxes, priors, 30, 31, rule=rule, ignore=ignore, iou_threshold=0.25)
        compare(impl, boxes, priors, 10, rule=rule, match_equal=False)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("rule", RULES)
def test_degenerate_and_non_finite_boxes(impl: Implementation, rule: str, dtype: torch.dtype) -> None:
    degenerate = degenerate_boxes(dtype)
    plain = random_boxes(70, seed=3, dtype=dtype)
    compare(impl, degenerate, torch.cat([degenerate, plain]), 5, rule=rule)
    compare(impl, torch.cat([plain[:9], degenerate]), plain, rule=rule, ignore=torch.arange(25) % 2 == 0)
    outside = compare(impl, random_boxes(4, seed=1, dtype=dtype) + 5, plain, rule=rule)
    assert (outside.labels == 0).all() and (outside.gt_index == -1).all()


@pytest.mark.parametrize("rule", RULES)
def test_empty(impl: Implementation, rule: str) -> None:
    none, priors = torch.zeros(0, 4), random_boxes(70)
    for bounds, shape in (((), (1, 70)), ((0, 0), (3, 70))):
        result = compare(impl, none, priors, *bounds, rule=rule)
        assert result.labels.shape == shape and not result.labels.any() and (result.gt_index == -1).all()
    compare(impl, random_boxes(5, seed=1), priors, 0, 2, 2, 5, rule=rule)  # images without objects among others
    assert compare(impl, random_boxes(3), none, 1, rule=rule).loc_targets.shape == (2, 0, 4)
    offsets, labels = torch.tensor([0]), torch.zeros(0, dtype=torch.int64)
    result = impl.match_priors(none, labels, priors, offsets=offsets, rule=rule)
    assert result.labels.shape == (0, 70) and result.loc_targets.shape == (0, 70, 4)
    assert impl.match_priors([], [], priors).labels.shape == (0, 70)


def test_greedy_matches_every_object_of_a_crowd(impl: Implementation) -> None:
    centers = torch.cartesian_prod(torch.arange(8.0), torch.arange(8.0))
    priors = torch.cat([centers - 1, centers + 1], dim=1)
    boxes = torch.tensor([[2.0, 2, 4, 4]]).repeat(8, 1) + torch.arange(8)[:, None] % 3 * 0.1
    assigned = {rule: compare(impl, boxes, priors, rule=rule).gt_index.unique().tolist() for rule in ("greedy", "last")}
    assert assigned["greedy"] == [-1, *range(8)]
    assert len(assigned["last"]) < 8  # with torchvision and amdegroot, objects with the same best prior get none


def test_more_objects_than_priors(impl: Implementation) -> None:
    boxes = random_boxes(100, seed=1)
    for priors in (boxes[:1], random_boxes(6, seed=2)):
        result = compare(impl, boxes, priors, iou_threshold=2)
        assert (result.labels > 0).all() and len(result.gt_index.unique()) == len(priors)


def test_many_objects_in_one_image(impl: Implementation) -> None:
    boxes, priors = random_boxes(700, seed=5), random_boxes(33, seed=6)
    for rule in RULES:
        compare(impl, boxes, priors, 600, rule=rule)


@pytest.mark.parametrize("seed", range(3))
def test_greedy_is_a_stable_matching(impl: Implementation, seed: int) -> None:
    """No object and prior overlap more than both of their assigned partners: the matching is stable."""
    boxes, priors = (tied_boxes if seed else random_boxes)(40, seed=seed), random_boxes(50, seed=9, scale=3)
    index = impl.match_priors([boxes], [labels_of(boxes)], priors, iou_threshold=2).gt_index[0]
    iou = reference.box_iou(boxes, priors)
    held = torch.zeros(len(priors))
    held[index >= 0] = iou[index[index >= 0], index >= 0]
    kept = torch.zeros(len(boxes))
    kept[index[index >= 0]] = held[index >= 0]
    assert not ((iou > held) & (iou > kept[:, None])).any()


@pytest.mark.parametrize("rule", RULES)
def test_batch_equals_image_by_image(impl: Implementation, rule: str) -> None:
    priors = random_boxes(130, seed=1)
    boxes = [random_boxes(n, seed=n) for n in (4, 0, 17, 1)]
    ignore = [torch.arange(len(b)) % 4 == 3 for b in boxes]
    labels = [labels_of(b) for b in boxes]
    whole = impl.match_priors(boxes, labels, priors, ignore=ignore, rule=rule)
    for i in range(len(boxes)):
        one = impl.match_priors(boxes[i : i + 1], labels[i : i + 1], priors, ignore=ignore[i : i + 1], rule=rule)
        for batched, single in zip(whole, one, strict=True):
            assert_equal(batched[i], single[0])


def test_result_is_independent_of_threads() -> None:
    priors, boxes = random_boxes(1000, seed=1), random_boxes(50, seed=2)
    threads = torch.get_num_threads()
    try:
        results = []
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            results.append(ssd_ops.match_priors([boxes, boxes[:0]], [labels_of(boxes), labels_of(boxes[:0])], priors))
    finally:
        torch.set_num_threads(threads)
    for result in results[1:]:
        for one, other in zip(result, results[0], strict=True):
            assert_equal(one, other)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_dtypes_and_strides(impl: Implementation, dtype: torch.dtype) -> None:
    priors = random_boxes(70, 2, seed=1, dtype=dtype)[:, 1]
    boxes = random_boxes(4, 11, seed=2, dtype=dtype).transpose(0, 1)[:, 2]
    for rule in RULES:
        result = compare(impl, boxes, priors, 5, rule=rule, variances=(0.1, 0.2, 0.3, 0.4))
        assert result.loc_targets.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        compare(impl, boxes, priors.float(), 5, rule=rule)
    bounds, labels = torch.tensor([[0, 9], [4, 9], [11, 9]])[:, 0], labels_of(boxes).repeat_interleave(2)[::2]
    strided = impl.match_priors(boxes, labels, priors, offsets=bounds, ignore=(labels < 3).repeat(2, 1).T[:, 1])
    assert_same(strided, reference.match_priors(boxes, labels, priors, offsets=bounds, ignore=labels < 3))


def ssd300_priors() -> Tensor:
    sizes, scales = (38, 19, 10, 5, 3, 1), [0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05]
    make = DefaultBoxGenerator([[2], [2, 3], [2, 3], [2, 3], [2], [2]], scales=scales, steps=[8, 16, 32, 64, 100, 300])
    images = ImageList(torch.zeros(1, 3, 300, 300), [(300, 300)])
    return make(images, [torch.zeros(1, 1, s, s) for s in sizes])[0]


def test_equals_torchvision(impl: Implementation) -> None:
    priors, matcher, coder = ssd300_priors(), SSDMatcher(0.5), BoxCoder((10.0, 10.0, 5.0, 5.0))
    boxes = [random_boxes(n, seed=n, scale=230).clamp(max=300) for n in (1, 8, 30)]
    labels = [labels_of(b) for b in boxes]
    actual = impl.match_priors(boxes, labels, priors, rule="last")
    for i, box in enumerate(boxes):
        matches = matcher(reference.box_iou(box, priors))
        found = matches >= 0
        assert_equal(actual.gt_index[i], matches)
        assert_equal(actual.labels[i][found], labels[i][matches[found]])
        encoded = coder.encode_single(box[matches[found]], priors[found])
        # torchvision takes centers as x1 + w / 2, and multiplies by 10 where this divides by 0.1.
        torch.testing.assert_close(actual.loc_targets[i][found], encoded, rtol=1e-5, atol=2e-5)


def test_invalid_offsets_on_a_device(impl: Implementation) -> None:
    """Where values are not validated, offsets are clamped to 0 .. sum G and never decrease, and labels are copied."""
    if impl.name in ("reference", "cpu"):
        pytest.skip("validates the values and raises, see test_errors")
    boxes, labels, priors = random_boxes(6, seed=1), torch.tensor([3, -7, 2**40, 0, 1, 2]), random_boxes(70, seed=2)
    for wrong, safe in (
        ([-5, 3, 2, 99], [0, 3, 3, 6]),
        ([4, -(2**62), 2**62], [4, 4, 6]),
        ([0, 6, 0, 5], [0, 6, 6, 6]),
        ([0, 2, 4], [0, 2, 4]),  # spare capacity after the last object, as buffers of a CUDA graph have
    ):
        for rule in RULES:
            actual = impl.match_priors(boxes, labels, priors, offsets=torch.tensor(wrong), rule=rule)
            for b, (begin, end) in enumerate(pairwise(safe)):
                expected = reference.match_priors([boxes[begin:end]], [labels_of(boxes[begin:end])], priors, rule=rule)
                assert_equal(actual.gt_index[b], expected.gt_index[0])
                found = expected.gt_index[0] >= 0
                assert_equal(actual.labels[b][found], labels[begin:end][expected.gt_index[0][found]])


def test_opcheck_and_compile(impl: Implementation) -> None:
    boxes, priors = random_boxes(9, seed=1).to(impl.device), random_boxes(70, seed=2).to(impl.device)
    labels, offsets = labels_of(boxes).to(impl.device), torch.tensor([0, 4, 9], device=impl.device)
    if impl.name != "reference":
        for ignore in (None, labels == 3):
            arguments = (boxes, labels, offsets, ignore, priors, 0.4, "greedy", True, [0.1, 0.1, 0.2, 0.2])
            torch.library.opcheck(torch.ops.ssd_ops.match_priors.default, arguments)
    compiled = torch.compile(ssd_ops.match_priors, fullgraph=True, backend="aot_eager", dynamic=True)
    for n in (40, 70):
        actual = compiled(boxes, labels, priors[:n], offsets=offsets, rule="last")
        assert_same(actual, ssd_ops.match_priors(boxes, labels, priors[:n], offsets=offsets, rule="last"))


@pytest.mark.parametrize("rule", ["greedy", "last"])
def test_subnormal_iou_is_assigned(impl: Implementation, rule: str) -> None:
    boxes = torch.tensor([[0.0, 0, 1e19, 1e19]])
    priors = torch.tensor([[0.0, 0, 1e-3, 1e-3], [0, 0, 1.2e-3, 1e-3]])
    found = compare(impl, boxes, priors, rule=rule)
    assert found.gt_index.tolist() == [[-1, 0]]
