"""Tests coverage of a data set by the priors, and the search for prior sizes."""

import re
from itertools import pairwise

import pytest
import torch

from ssd import PriorConfig, build_model, make_priors
from ssd.config import TrainConfig
from ssd.data import open_dataset
from ssd.data_check import objects
from ssd.engine import setup
from ssd.priors.coverage import PriorCoverage, prior_coverage
from ssd.priors.fit import fit_prior_sizes
from tests.ssd.small_folders import voc_object, write_voc

# a prior of half the image in each quarter, and the whole image
PRIORS = torch.tensor([[0.0, 0, 0.5, 0.5], [0.5, 0, 1, 0.5], [0, 0.5, 0.5, 1], [0.5, 0.5, 1, 1], [0, 0, 1, 1]])


def test_coverage_by_hand():
    boxes = [
        torch.tensor([[0.0, 0, 0.5, 0.5], [0.5, 0.5, 0.75, 1.0], [0.0, 0.0, 0.1, 0.1]]),  # IoU 1, exactly 0.5, 0.04
        torch.zeros(0, 4),
        torch.tensor([[0.2, 0.2, 0.2, 0.9]]),  # no area: overlaps nothing
    ]
    labels = [torch.tensor([1, 1, 2]), torch.zeros(0, dtype=torch.int64), torch.tensor([2])]
    found = prior_coverage(PRIORS, boxes, labels, ("cat", "dog", "cow"))
    assert found.objects == (2, 2, 0) and found.matched == (2, 0, 0) and found.recall == 0.5
    assert found.mean_best_iou == pytest.approx((1 + 0.5 + 0.04) / 4, abs=1e-6)
    torch.testing.assert_close(found.missed_sizes, torch.tensor([[0.1, 0.1], [0.0, 0.7]]))
    assert str(found).splitlines() == [
        "priors match 2 of 4 objects (50.0%) at IoU >= 0.5; mean best IoU 0.385",
        "  cat: 2 of 2 (100.0%)",
        "  dog: 0 of 2 (0.0%)",
    ]
    advice = found.advice(image_size=300)
    assert re.search(r"match only 50.0% of the objects \(low: dog\).*median size of 15 px", advice)


def test_coverage_advises_on_poor_classes_only():
    good, bad = torch.tensor([[0.0, 0, 0.5, 0.5]]), torch.tensor([[0.0, 0, 0.01, 0.01]])
    label = torch.tensor([1])
    assert prior_coverage(PRIORS, [good], [label], ("a",)).advice() is None
    assert prior_coverage(PRIORS, [], [], ("a",)).advice() is None
    mixed = prior_coverage(PRIORS, [good] * 9 + [bad], [label] * 9 + [label + 1], ("a", "b"))
    assert mixed.recall == 0.9
    assert "only 90.0% of the objects (low: b)" in mixed.advice()


def test_coverage_in_chunks_equals_one_pass(monkeypatch):
    torch.manual_seed(0)
    boxes = [torch.rand(7, 4).sort(dim=1).values[:, [0, 1, 2, 3]] for _ in range(5)]
    labels = [torch.randint(1, 3, (7,)) for _ in range(5)]
    whole = prior_coverage(PRIORS, boxes, labels, ("a", "b"))
    monkeypatch.setattr("ssd.priors.coverage._MAX_IOU_ENTRIES", 11)
    pieces = prior_coverage(PRIORS, boxes, labels, ("a", "b"))
    assert pieces.matched == whole.matched and pieces.mean_best_iou == whole.mean_best_iou


def test_coverage_bad_input_error_messages():
    box = [torch.tensor([[10.0, 10, 200, 100]])]
    with pytest.raises(ValueError, match=r"normalized to their image \(0\.\.1\), got a coordinate of 200"):
        prior_coverage(PRIORS, box, [torch.tensor([1])], ("a",))
    with pytest.raises(ValueError, match=r"labels must be in 1..1, got 2..2"):
        prior_coverage(PRIORS, [PRIORS[:1]], [torch.tensor([2])], ("a",))
    with pytest.raises(ValueError, match="one entry per box, 1, got 2"):
        prior_coverage(PRIORS, [PRIORS[:1]], [torch.tensor([1, 1])], ("a",))


def small_objects():
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(60, 2, generator=generator) * 0.8
    side = 0.08 + 0.06 * torch.rand(60, 1, generator=generator)
    rare = torch.tensor([[0.1, 0.1, 0.8, 0.7]])  # one large object among sixty small ones
    return [torch.cat((corner, corner + side), dim=1), rare], [torch.ones(60, dtype=torch.int64), torch.tensor([2])]


def test_fitted_sizes_cover_objects_that_defaults_miss():
    boxes, labels = small_objects()
    model = build_model(
        "ssdlite320_mobilenet_v2",
        3,
        image_size=160,
        min_stride=8,
        preset="caffe",
        prior_sizes=(50, *range(60, 130, 10)),
    )
    before = prior_coverage(model.priors, boxes, labels, ("small", "large"))
    sizes = fit_prior_sizes(model.prior_config, boxes, labels, rounds=1)
    assert len(sizes) == 8 and all(b > a for a, b in pairwise(sizes))
    config = model.prior_config
    fitted = PriorConfig.from_sizes(160, config.feature_sizes, sizes, config.aspect_ratios, clip=config.clip)
    after = prior_coverage(make_priors(fitted), boxes, labels, ("small", "large"))
    assert before.matched[0] < 30 and after.matched[0] > 50 and after.matched[1] == 1
    assert sizes == fit_prior_sizes(model.prior_config, boxes, labels, rounds=1)


def test_sizes_are_fitted_for_the_threshold_of_matching():
    generator = torch.Generator().manual_seed(0)
    corner, sides = torch.rand(200, 2, generator=generator), 0.03 + 0.6 * torch.rand(200, 2, generator=generator) ** 2
    boxes, labels = [torch.cat((corner, corner + sides), dim=1)], [torch.ones(200, dtype=torch.int64)]
    model = build_model("ssd_tiny", 2, image_size=160)
    config, matched = model.prior_config, {}
    for threshold in (0.4, 0.5):
        sizes = fit_prior_sizes(config, boxes, labels, iou_threshold=threshold)
        fitted = PriorConfig.from_sizes(160, config.feature_sizes, sizes, config.aspect_ratios)
        for at in (0.4, 0.5):
            matched[threshold, at] = sum(prior_coverage(make_priors(fitted), boxes, labels, ("a",), at).matched)
    assert matched[0.4, 0.4] > matched[0.5, 0.4] and matched[0.5, 0.5] > matched[0.4, 0.5]
    assert fit_prior_sizes(config, boxes, labels) == fit_prior_sizes(config, boxes, labels, iou_threshold=0.5)


@pytest.mark.parametrize("where", ["training", "data check"])
def test_prior_sizes_are_those_for_the_rules_of_the_model(where, tmp_path, monkeypatch):
    write_voc(tmp_path, {"a": [voc_object(box=(10, 8, 50, 34)), voc_object(box=(10, 10, 12, 12))]})
    dataset, used = open_dataset("voc", tmp_path), []

    def fit(*_, iou_threshold=None):
        used.append(iou_threshold)
        return (10.0, 20.0, 40.0, 80.0, 160.0)

    monkeypatch.setattr(setup if where == "training" else objects, "fit_prior_sizes", fit)
    for options in ({}, {"match_iou_threshold": 0.4}):
        if where == "training":
            setup.make_model(TrainConfig(model="ssd_tiny", model_options=options, fit_priors=True), dataset)
        else:
            objects.check_priors([dataset], "ssd_tiny", None, **options)
    assert used == [0.5, 0.4]


def test_fit_priors_needs_objects():
    config = build_model("ssd_tiny", 2, image_size=64).prior_config
    with pytest.raises(ValueError, match="at least one box with an area"):
        fit_prior_sizes(config, [torch.zeros(0, 4)], [torch.zeros(0)])


def test_coverage_report_lists_worst_classes() -> None:
    names = tuple(f"class {i}" for i in range(80))
    coverage = PriorCoverage(0.5, (10,) * 80, tuple(i % 11 for i in range(80)), names, torch.full((9, 2), 0.1), 0.5)
    lines = str(coverage).splitlines()
    assert len(lines) == 22 and "class 0: 0 of 10 (0.0%)" in lines[1]
    assert lines[-1] == "  60 more classes, none of them lower"
    advice = coverage.advice(image_size=300)
    assert advice is not None and "and 39 more" in advice and len(advice) < 600
    assert "Fit prior_sizes" in advice
    fitted = coverage.advice(image_size=300, fitted=True)
    assert fitted is not None and "Fit prior_sizes" not in fitted and "larger input" in fitted


def test_advice_does_not_depend_on_the_default_dtype() -> None:
    coverage = prior_coverage(
        torch.tensor([[0.0, 0, 1, 1]]), [torch.tensor([[0, 0, 0.1, 0.1]])], [torch.ones(1)], ["a"]
    )
    advice = coverage.advice()
    torch.set_default_dtype(torch.float64)
    try:
        assert coverage.advice() == advice is not None
    finally:
        torch.set_default_dtype(torch.float32)
