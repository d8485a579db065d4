"""Tests ssd.accelerate: torchvision's detectors give the same results as before, and can be restored."""

import copy
import pickle
import warnings
from functools import cache

import pytest
import torch
from torch import nn
from torchvision.models import detection
from torchvision.models.detection.anchor_utils import AnchorGenerator, DefaultBoxGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.ssd import SSD
from torchvision.ops import box_iou

import ssd
from ssd.torchvision_patch.fused import shared_anchors

# Only exp and log differ between torchvision's post-processing and the op: an ulp or two of scores in 0..1 and of boxes of
# some hundred pixels. Losses are sums in another order and width.
SCORES = {"rtol": 0, "atol": 2e-6}
BOXES = {"rtol": 0, "atol": 1e-3}
LOSSES = {"rtol": 1e-5, "atol": 0}


class Stem(nn.Sequential):
    """A backbone of two convolutions with cells of 16 pixels."""

    out_channels = 32

    def __init__(self):
        super().__init__(nn.Conv2d(3, 32, 5, 4, 2), nn.ReLU(), nn.Conv2d(32, 32, 5, 4, 2))


def tiny_ssd(**options):
    torch.manual_seed(0)
    backbone = Stem()
    backbone.out_channels = [32]
    return SSD(backbone, DefaultBoxGenerator([[2]], 0.3, 0.6), (64, 64), num_classes=5, **options)


class Fixed(nn.Module):
    """Replaces a large backbone by its precomputed features for the images of these tests."""

    def __init__(self, model):
        super().__init__()
        with torch.no_grad():
            self.features = model.eval().backbone(model.transform(images())[0].tensors)

    def forward(self, batch):
        return type(self.features)((key, value[: len(batch)]) for key, value in self.features.items())


def single_level(cls, anchors="anchor_generator", ratios=(0.5, 1.0, 2.0), **options):
    """A detector with one level of 2 x 8 x 12 anchors: few enough that no scores are equal."""
    options[anchors] = AnchorGenerator(((32,),), (ratios,))
    return cls(Stem(), num_classes=5, min_size=128, max_size=192, **options)


def spread(run, layers, std):
    """Scales layers such that their outputs have the given standard deviation."""
    for layer in layers:
        seen = []
        hook = layer.register_forward_hook(lambda layer, inputs, output, seen=seen: seen.append(output))
        with torch.no_grad():
            run()
        hook.remove()
        layer.weight.data *= std / torch.cat([output.flatten() for output in seen]).std()


@cache
def built(name):
    """A detector with random weights and some confident detections."""
    torch.manual_seed(0)
    none = {"weights": None, "weights_backbone": None, "num_classes": 5}
    if name in ("ssd300", "ssdlite"):
        model = {"ssd300": detection.ssd300_vgg16, "ssdlite": detection.ssdlite320_mobilenet_v3_large}[name](**none)
        model.backbone = Fixed(model)
        levels = list(model.backbone.features.values())
        last = [
            level if name == "ssd300" else level[-1] for head in model.head.children() for level in head.module_list
        ]
        spread(lambda: model.head(levels), last, 2.0)
        return model
    if name == "faster_rcnn":
        model = single_level(detection.FasterRCNN, "rpn_anchor_generator", box_score_thresh=0.001)
        layers = [model.rpn.head.cls_logits, *model.roi_heads.box_predictor.children()]
    else:
        cls, ratios = {"retinanet": (detection.RetinaNet, (0.5, 1.0, 2.0)), "fcos": (detection.FCOS, (1.0,))}[name]
        model = single_level(cls, ratios=ratios, score_thresh=0.02, topk_candidates=5000)
        layers = [model.head.classification_head.cls_logits]
        layers[0].bias.data.fill_(0)
    spread(lambda: model.eval()(images()), layers, 2.0)
    return model


def pair(name):
    """torchvision's model, and the same one accelerated."""
    theirs = copy.deepcopy(built(name))
    return theirs, ssd.accelerate(copy.deepcopy(theirs))


def target(*boxes):
    return {
        "boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        "labels": torch.arange(len(boxes)) % 4 + 1,
    }


def images():
    generator = torch.Generator().manual_seed(1)
    return [torch.rand(3, 120, 160, generator=generator), torch.rand(3, 150, 100, generator=generator)]


# two objects of the first image are at one location and match one prior; the second image has none
TARGETS = [target((10, 20, 90, 100), (10, 20, 90, 100), (100, 30, 150, 110)), target()]


@pytest.mark.parametrize("name", [pytest.param("ssd300", marks=pytest.mark.slow), "ssdlite"])
def test_accelerated_ssd_detections_equal_torchvision(name):
    theirs, ours = (model.eval() for model in pair(name))
    with torch.no_grad():
        expected, got = theirs(images()), ours(images())
    for want, have in zip(expected, got, strict=True):
        assert set(have) == set(want) and len(have["boxes"]) == theirs.detections_per_img
        assert torch.equal(have["labels"], want["labels"]) and len(want["labels"].unique()) > 1
        torch.testing.assert_close(have["scores"], want["scores"], **SCORES)
        torch.testing.assert_close(have["boxes"], want["boxes"], **BOXES)


@pytest.mark.parametrize("name", [pytest.param("ssd300", marks=pytest.mark.slow), "ssdlite"])
def test_accelerated_ssd_losses_and_gradients_equal_torchvision(name):
    theirs, ours = (model.train() for model in pair(name))
    expected, got = theirs(images(), TARGETS), ours(images(), TARGETS)
    assert list(got) == list(expected)
    for key in expected:
        assert expected[key] > 0
        torch.testing.assert_close(got[key], expected[key], **LOSSES)
    for losses in (expected, got):
        sum(losses.values()).backward()
    for (key, want), have in zip(theirs.named_parameters(), ours.parameters(), strict=True):
        if want.grad is not None:
            assert (have.grad - want.grad).norm() <= 1e-4 * want.grad.norm(), key


@pytest.mark.parametrize("name", ["retinanet", "fcos", "faster_rcnn"])
def test_other_accelerated_detectors_are_bit_equal(name):
    theirs, ours = pair(name)
    with torch.no_grad():
        expected, got = theirs.eval()(images()), ours.eval()(images())
    for want, have in zip(expected, got, strict=True):
        assert len(want["scores"].unique()) == len(want["scores"]) > 20  # no ties, which torchvision leaves open
        assert set(have) == set(want) and all(torch.equal(have[key], want[key]) for key in want)
    losses = []
    for model in (theirs, ours):
        torch.manual_seed(3)  # samplers draw proposals
        losses.append(model.train()(images(), TARGETS))
    assert losses[0] == losses[1]
    assert all(value > 0 for value in losses[0].values())


@pytest.mark.parametrize("name", ["ssd300", "retinanet", "faster_rcnn"])
def test_accelerate_without_detections_or_objects(name):
    theirs, ours = pair(name)
    for model in (theirs, ours):
        (model.roi_heads if name == "faster_rcnn" else model).score_thresh = 1.0
    with torch.no_grad():
        for want, have in zip(theirs.eval()(images()), ours.eval()(images()), strict=True):
            assert {k: (v.shape, v.dtype) for k, v in have.items()} == {k: (v.shape, v.dtype) for k, v in want.items()}
            assert have["boxes"].shape == (0, 4)
        torch.manual_seed(3)
        expected = theirs.train()(images(), [target(), target()])
        torch.manual_seed(3)
        assert ours.train()(images(), [target(), target()]) == expected


@pytest.mark.parametrize("name", ["ssd300", "faster_rcnn"])
def test_restore_undoes_accelerate(name):
    model = copy.deepcopy(built(name))
    classes = [type(m) for m in model.modules()]
    keys = list(model.state_dict())
    assert ssd.accelerate(model) is model
    changed = [type(m) for m in model.modules()]
    assert sum(a is not b for a, b in zip(changed, classes, strict=True)) == (2 if name == "faster_rcnn" else 1)
    assert all(issubclass(a, b) for a, b in zip(changed, classes, strict=True))
    assert [type(m) for m in ssd.accelerate(model).modules()] == changed  # a second time changes nothing
    assert list(model.state_dict()) == keys
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert [type(m) for m in copied.modules()] == changed
    wrapped = nn.ModuleDict({"detector": model})
    assert ssd.restore(wrapped) is wrapped
    assert [type(m) for m in model.modules()] == classes
    for module, fresh in zip(model.modules(), built(name).modules(), strict=True):
        assert vars(module).get("box_similarity") is vars(fresh).get("box_similarity")


def test_each_negative_counts_once_when_few():
    ours, theirs = ssd.accelerate(tiny_ssd(iou_thresh=0.05)), tiny_ssd(iou_thresh=0.05)
    arguments = [torch.rand(3, 64, 64)], [target((0, 0, 64, 64))]
    loss, doubled = ours(*arguments)["classification"], theirs(*arguments)["classification"]
    batch, warped = ours.transform(*arguments)
    features = [ours.backbone(batch.tensors)]
    anchors = ours.anchor_generator(batch, features)[0]
    logits = ours.head(features)["cls_logits"][0]
    labels = (box_iou(warped[0]["boxes"], anchors)[0] >= 0.05).long()
    assert 3 * labels.sum() > (labels == 0).sum()  # so every prior is sampled
    every = nn.functional.cross_entropy(logits, labels, reduction="sum") / labels.sum()
    torch.testing.assert_close(loss, every, **LOSSES)
    assert doubled > every


def test_accelerate_leaves_custom_parts():
    class Mine(SSD):
        def compute_loss(self, *arguments):
            return {"mine": super().compute_loss(*arguments)["classification"] * 2}

    model = tiny_ssd()
    model.__class__ = Mine
    arguments = [torch.rand(3, 64, 64)], [target((5, 5, 40, 40))]
    expected = model(*arguments)
    with pytest.warns(UserWarning, match="Mine: it has its own compute_loss; only NMS and IoU are replaced"):
        ssd.accelerate(model)
    assert model(*arguments) == expected and list(expected) == ["mine"]
    with pytest.warns(UserWarning, match=r"SSD: its ratio of negatives to positives, 2.33333, is not an integer"):
        ssd.accelerate(tiny_ssd(positive_fraction=0.3))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ssd.accelerate(tiny_ssd())


def test_anchors_stay_float32_under_autocast():
    generator = DefaultBoxGenerator([[2]], 0.3, 0.6)
    batch = ImageList(torch.zeros(2, 3, 300, 300), [(300, 300)] * 2)
    half, full = torch.zeros(2, 1, 38, 38, dtype=torch.bfloat16), torch.zeros(2, 1, 38, 38)
    rounded, exact = generator(batch, [half])[0], generator(batch, [full])[0]
    assert (rounded - exact).abs().max() > 0.25  # pixels, in torchvision
    assert torch.equal(shared_anchors(generator, batch, [half]), exact)


def test_accelerate_error_messages():
    with pytest.raises(TypeError, match=r"model must be or contain a torchvision detector \(SSD, .*\), got Stem"):
        ssd.accelerate(Stem())
    with pytest.raises(TypeError, match=r"model must be or contain a torchvision detector .*, got str"):
        ssd.accelerate("ssd300_vgg16")
    model = ssd.accelerate(tiny_ssd())
    image = [torch.rand(3, 64, 64)]
    with pytest.raises(AssertionError, match="targets should not be none"):
        model(image)
    with pytest.raises(AssertionError, match=r"targets\[0\]\['boxes'\] must have shape \[G, 4\], got \[4\]"):
        model(image, [{"boxes": torch.zeros(4), "labels": torch.ones(1, dtype=torch.int64)}])
    with pytest.raises(AssertionError, match=r"Found invalid box \[5.0, 5.0, 5.0, 9.0\] for target at index 1"):
        model(image * 2, [target((1, 1, 9, 9)), target((1, 1, 9, 9), (5, 5, 5, 9))])
