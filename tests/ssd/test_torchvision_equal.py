"""Tests that detectors with torchvision's weights and preset equal torchvision's detectors."""

import copy

import pytest
import torch
import torchvision
from torch import nn

import ssd_ops
from ssd import build_model

pytestmark = pytest.mark.slow


def count_for(image_size):
    """Returns the batch size: BatchNorm over 1 x 1 cells needs two images, and VGG-16 takes seconds per image."""
    return 1 if image_size == 300 else 2


@pytest.fixture(scope="module", params=["ssd300_vgg16", "ssdlite320_mobilenet_v3_large"])
def pair(request):
    """torchvision's model and ours with the same random weights, in evaluation mode."""
    torch.manual_seed(0)
    build = getattr(torchvision.models.detection, request.param)
    theirs = build(weights=None, weights_backbone=None, num_classes=4, score_thresh=0.3)
    images = torch.rand(count_for(theirs.transform.fixed_size[0]), 3, *theirs.transform.fixed_size)
    with torch.no_grad():  # random heads are all alike or too sure; these spread the scores
        for norm in theirs.modules():
            if isinstance(norm, nn.BatchNorm2d):
                norm.momentum = 1.0  # statistics of this pass alone, so that evaluation is like it
        found = head_outputs(theirs, images)
        for head, name, spread in (("classification", "cls_logits", 1.5), ("regression", "bbox_regression", 0.5)):
            for level in theirs.head.get_submodule(f"{head}_head.module_list"):
                last = [m for m in level.modules() if isinstance(m, nn.Conv2d)][-1]
                last.weight *= spread / found[name].std()
    theirs.eval()
    ours = build_model(request.param, 4, score_threshold=0.3).eval()
    ours.load_state_dict(theirs.state_dict())  # strict: the names and shapes are torchvision's
    return theirs, ours


def head_outputs(theirs, images):
    normalized = torch.stack([theirs.transform.normalize(image) for image in images])
    return theirs.head(list(theirs.backbone(normalized).values()))


def native(model, count):
    return list(torch.rand(count, 3, model.image_size, model.image_size).unbind())


def test_forward_is_bit_equal_to_torchvision(pair):
    theirs, ours = pair
    assert list(ours.state_dict()) == list(theirs.state_dict())  # also: priors and constants are not in it
    image = native(ours, 1)[0][None]
    with torch.no_grad():
        expected = head_outputs(theirs, image)
        loc, logits = ours.forward_raw(ours.normalize(image))
    assert torch.equal(loc, expected["bbox_regression"])
    assert torch.equal(logits, expected["cls_logits"])
    assert loc.shape == (1, {300: 8732, 320: 3234}[ours.image_size], 4) and len(ours.priors) == loc.shape[1]


def assert_same_order(mine, other):
    """Checks that detections are equal and in the same order, except where scores differ by rounding only."""
    rounding = 1e-6  # of the two softmaxes
    torch.testing.assert_close(mine["scores"], other["scores"], rtol=0, atol=rounding)
    same = mine["labels"][:, None] == other["labels"]
    same &= (mine["scores"][:, None] - other["scores"]).abs() <= rounding
    same &= (mine["boxes"][:, None] - other["boxes"]).abs().amax(-1) <= 1e-3
    tied = (mine["scores"][:, None] - mine["scores"]).abs() <= 2 * rounding
    last = mine["scores"] <= mine["scores"][-1] + rounding  # a tie at the limit of detections
    assert ((same & tied).any(1) | last).all() and ((same & tied).any(0) | last).all()


def test_detections_equal_torchvision_in_order(pair):
    theirs, ours = pair
    images = native(ours, count_for(ours.image_size))
    with torch.no_grad():
        got, expected = ours(images), theirs(images)
    for mine, other in zip(got, expected, strict=True):
        assert len(mine["boxes"]) == ours.preset.max_detections and len(mine["labels"].unique()) == 3
        assert_same_order(mine, other)
    # an image that is warped is warped before it is normalized, not after: the same up to rounding
    image = torch.rand(3, 211, 320)
    with torch.no_grad():
        mine, other = ours([image])[0], theirs([image])[0]
    torch.testing.assert_close(mine["scores"], other["scores"], rtol=0, atol=1e-4)


def test_losses_and_gradients_equal_torchvision(pair):
    theirs, ours = (copy.deepcopy(m).train() for m in pair)
    images = native(ours, count_for(ours.image_size))  # not resized, so that the forward pass is bit-equal
    targets = [
        {"boxes": torch.tensor([[20.0, 30, 180, 200], [200, 100, 290, 230]]), "labels": torch.tensor([1, 3])},
        {"boxes": torch.tensor([[151.0, 43, 243, 157]]), "labels": torch.tensor([2])},
    ]
    targets = targets[: len(images)]
    boxes = [t["boxes"] / ours.image_size for t in targets]
    positives = (ssd_ops.match_priors(boxes, [t["labels"] for t in targets], ours.priors, rule="last").labels > 0).sum(
        1
    )
    assert (positives > 0).all() and (3 * positives <= len(ours.priors) - positives).all()  # else it counts some twice
    expected, got = theirs(images, targets), ours(images, targets)
    assert set(got) == set(expected) == {"bbox_regression", "classification"}
    for name in got:
        torch.testing.assert_close(got[name], expected[name], rtol=1e-5, atol=0)
    sum(expected.values()).backward()
    sum(got.values()).backward()
    grads = {name: parameter.grad for name, parameter in theirs.named_parameters()}
    # a bias before a BatchNorm has no gradient but rounding; what is left of it is small beside all others
    noise = 1e-6 * max(grad.norm() for grad in grads.values())
    for name, parameter in ours.named_parameters():
        assert (parameter.grad - grads[name]).norm() <= 1e-4 * grads[name].norm() + noise, name
