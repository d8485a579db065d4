"""MultiBoxLoss: hand-computed values, rules taken from the preset, and images without objects."""

import math

import pytest
import torch

from ssd import MultiBoxLoss, Preset, get_preset

# Four priors in a row, each a quarter of the image wide.
PRIORS = torch.tensor([[0.0, 0, 0.25, 1], [0.25, 0, 0.5, 1], [0.5, 0, 0.75, 1], [0.75, 0, 1, 1]])
# Overlaps prior 1 by 0.25 * 1 of 0.25 * 1: IoU 1; the others by 0.
BOX = torch.tensor([[0.25, 0.0, 0.5, 1.0]])


def loss_with(**rules: object) -> MultiBoxLoss:
    return MultiBoxLoss(Preset("own", **rules))


def test_loss_by_hand():
    """One positive, three negatives, two classes, 3 negatives for each positive: all four priors count."""
    loc = torch.zeros(1, 4, 4)
    loc[0, 1] = torch.tensor([0.5, -2.0, 0.0, 0.0])  # targets are 0: smooth L1 is 0.5 * 0.25 and 2 - 0.5
    loc[0, 2] = 9.0  # a negative's deltas do not matter
    logits = torch.zeros(1, 4, 2)
    logits[0, 0, 0] = 1.0
    losses = loss_with()(loc, logits, PRIORS, BOX, torch.tensor([1]), torch.tensor([0, 1]))
    assert losses["loc"].item() == pytest.approx(0.125 + 1.5, abs=1e-6)
    expected = 3 * math.log(2) + math.log(1 + math.exp(-1))
    assert losses["cls"].item() == pytest.approx(expected, abs=1e-6)
    fewer = loss_with(neg_pos_ratio=1, loc_weight=2)(loc, logits, PRIORS, BOX, torch.tensor([1]), torch.tensor([0, 1]))
    assert fewer["cls"].item() == pytest.approx(2 * math.log(2), abs=1e-6)
    assert fewer["loc"].item() == pytest.approx(2 * 1.625, abs=1e-6)


def test_loss_of_lists_equals_packed():
    torch.manual_seed(0)
    loc, logits = torch.randn(3, 4, 4), torch.randn(3, 4, 3)
    boxes = [BOX, torch.zeros(0, 4), torch.tensor([[0.0, 0, 0.3, 1], [0.7, 0, 1, 1]])]
    labels = [torch.tensor([1]), torch.zeros(0, dtype=torch.int64), torch.tensor([2, 1])]
    loss = loss_with()
    listed = loss(loc, logits, PRIORS, boxes, labels)
    packed = loss(loc, logits, PRIORS, torch.cat(boxes), torch.cat(labels), torch.tensor([0, 1, 1, 3]))
    assert torch.equal(listed["loc"], packed["loc"]) and torch.equal(listed["cls"], packed["cls"])


def test_images_without_objects_contribute_only_with_min_negatives():
    loc, logits = torch.zeros(2, 4, 4), torch.zeros(2, 4, 2, requires_grad=True)
    empty = (torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.tensor([0, 0, 0]))
    silent = loss_with()(loc, logits, PRIORS, *empty)
    assert silent["loc"].item() == 0 and silent["cls"].item() == 0
    sampled = loss_with(min_negatives=3)(loc, logits, PRIORS, *empty)
    assert sampled["cls"].item() == pytest.approx(6 * math.log(2), abs=1e-5)
    sampled["cls"].backward()
    assert (logits.grad.abs().sum(dim=(1, 2)) > 0).all()


def test_loss_passes_rules_to_ops():
    loc, logits = torch.zeros(1, 4, 4), torch.zeros(1, 4, 2)
    shifted = torch.tensor([[0.375, 0.0, 0.625, 1.0]])  # IoU 1/3 with priors 1 and 2
    args = (loc, logits, PRIORS, shifted, torch.tensor([1]), torch.tensor([0, 1]))
    assert loss_with(rule="none")(*args)["cls"].item() == 0
    one = loss_with(rule="greedy")(*args)  # the object keeps prior 1, 3 negatives
    assert one["cls"].item() == pytest.approx(4 * math.log(2), abs=1e-5)
    two = loss_with(rule="none", match_iou_threshold=0.3)(*args)  # both priors positive, both others negative
    assert two["cls"].item() == pytest.approx(4 * math.log(2) / 2, abs=1e-5)
    # dx = 0.125 / 0.25 / variance 0.1 = 5 -> 4.5; with variance 1 it is 0.5 -> 0.125
    assert one["loc"].item() == pytest.approx(4.5, abs=1e-5)
    assert loss_with(variances=(1.0, 1.0))(*args)["loc"].item() == pytest.approx(0.125, abs=1e-6)


def test_ignored_objects_are_neither_positive_nor_negative():
    loc, logits = torch.zeros(1, 4, 4), torch.zeros(1, 4, 2)
    boxes = torch.cat((BOX, torch.tensor([[0.75, 0.0, 1.0, 1.0]])))
    args = (loc, logits, PRIORS, boxes, torch.tensor([1, 1]), torch.tensor([0, 2]))
    losses = loss_with()(*args, torch.tensor([False, True]))
    assert losses["cls"].item() == pytest.approx(
        3 * math.log(2), abs=1e-5
    )  # one positive, two negatives, prior 3 apart


@pytest.mark.parametrize(
    ("kind", "iou"),
    [("giou", 1 / 3), ("diou", 1 / 3 - 0.125**2 / (0.375**2 + 1)), ("ciou", 1 / 3 - 0.125**2 / 1.140625)],
)
def test_iou_loss_of_boxes_by_hand(kind, iou):
    loc = torch.zeros(2, 4, 4)
    loc[0, 1, 0] = 5.0  # 5 * variance 0.1 * width 0.25: shifted by half a width, IoU 1/3
    loc[1, 3] = 9.0  # a negative's deltas do not matter
    loc.requires_grad_()
    args = (
        torch.zeros(2, 4, 2),
        PRIORS,
        torch.cat((BOX, BOX)),
        torch.tensor([1, 1]),
        torch.tensor([0, 1, 2]),
    )
    whole = loss_with(box_loss=kind, loc_weight=3.0)(loc, *args)["loc"]
    assert whole.item() == pytest.approx(3 * (1 - iou) / 2, abs=1e-5)  # priors 1 of both images are positive
    whole.backward()
    assert loc.grad[0, 1, 0] > 0 and not loc.grad[1, 3].any()
    for normalizer, divisor in (("image", 2), ("batch_size", 2)):
        value = loss_with(box_loss=kind, normalizer=normalizer)(loc.detach(), *args)["loc"]
        assert value.item() == pytest.approx((1 - iou) / divisor, abs=1e-5)


def test_iou_loss_without_objects_is_zero():
    empty = (torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.tensor([0, 0]))
    assert loss_with(box_loss="giou")(torch.zeros(1, 4, 4), torch.zeros(1, 4, 2), PRIORS, *empty)["loc"].item() == 0
    with pytest.raises(ValueError, match="box_loss must be one of smooth_l1, giou, diou, ciou, got 'iou'"):
        loss_with(box_loss="iou")


def test_rules_that_exclude_each_other_raise():
    with pytest.raises(ValueError, match="normalizer must be batch or batch_size if mining is batch, got 'image'"):
        get_preset("caffe", overrides={"mining": "batch", "normalizer": "image"})


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_loss_of_half_precision_is_computed_in_float32(dtype):
    torch.manual_seed(1)
    loc, logits = torch.randn(2, 4, 4).to(dtype).requires_grad_(), (5 * torch.randn(2, 4, 3)).to(dtype).requires_grad_()
    args = (PRIORS, torch.cat((BOX, BOX)), torch.tensor([1, 2]), torch.tensor([0, 1, 2]))
    half = loss_with()(loc, logits, *args)
    full = loss_with()(loc.detach().float(), logits.detach().float(), *args)
    for name in half:
        assert half[name].dtype == torch.float32
        torch.testing.assert_close(half[name], full[name])
    (half["loc"] + half["cls"]).backward()
    assert loc.grad.dtype == dtype and torch.isfinite(logits.grad).all()
