"""Tests accelerated detectors with checks from torchvision's own tests, and after later changes of the model."""

import copy

import pytest
import torch
from torchvision.models import detection
from torchvision.models.detection._utils import BoxCoder

import ssd
from tests.ssd.test_torchvision_patch import BOXES, LOSSES, SCORES, built, single_level, target, tiny_ssd

LABELED = [target((5, 5, 40, 40), (20, 10, 60, 50))]


@pytest.fixture
def image():
    return torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(3))


def pair(**options):
    """torchvision's small SSD with some confident detections, and the same model accelerated."""
    theirs = tiny_ssd(**options)
    for layer in theirs.head.classification_head.module_list:
        torch.nn.init.normal_(layer.weight, std=1.0)
    return theirs, ssd.accelerate(copy.deepcopy(theirs))


def assert_same(got, expected):
    assert len(got) == len(expected)
    for have, want in zip(got, expected, strict=True):
        assert list(have) == list(want) == ["boxes", "scores", "labels"]
        assert torch.equal(have["labels"], want["labels"])
        torch.testing.assert_close(have["scores"], want["scores"], **SCORES)
        torch.testing.assert_close(have["boxes"], want["boxes"], **BOXES)


def test_accelerated_gradient_reaches_the_image(image):
    """In evaluation mode, as needed by Grad-CAM."""
    grads = []
    for model in pair():
        x = image.clone().requires_grad_()
        (found,) = model.eval()([x])
        assert len(found["scores"]) > 3
        (found["scores"].sum() + found["boxes"].mul(0.01).sum()).backward()
        grads.append(x.grad)
    assert grads[0].abs().sum() > 0
    torch.testing.assert_close(grads[1], grads[0], rtol=1e-3, atol=1e-5)


def test_gradient_of_built_model_reaches_the_image(image):
    model = ssd.build_model("ssd_tiny", 3, image_size=64, width=4, score_threshold=0.0).eval()
    x = image.requires_grad_()
    (found,) = model([x])
    found["scores"].sum().backward()
    assert x.grad.abs().sum() > 0 and list(found) == ["boxes", "scores", "labels"]


@pytest.mark.parametrize(
    "options",
    [
        {"detections_per_img": 0},
        {"detections_per_img": -1},
        {"topk_candidates": 0},
        {"score_thresh": -1.0},
        {"score_thresh": 2.0},
        {"nms_thresh": 1.5},
    ],
    ids=str,
)
def test_accelerate_accepts_torchvision_options(options, image):
    theirs, ours = (model.eval() for model in pair(**options))
    with torch.no_grad():
        assert_same(ours([image]), theirs([image]))


@pytest.mark.parametrize(
    ("count", "targets"),
    [
        (1, [{**LABELED[0], "labels": torch.tensor([0, 2])}]),
        (1, [*LABELED, target((1, 1, 9, 9))]),
        (2, [LABELED[0], {"boxes": torch.zeros(0, 4), "labels": torch.tensor([0])}]),
    ],
    ids=["label 0", "more targets than images", "dummy label of an image without objects"],
)
def test_accelerate_accepts_torchvision_targets(count, targets, image):
    theirs, ours = (model.train() for model in pair())
    expected, got = theirs([image] * count, targets), ours([image] * count, targets)
    assert list(got) == list(expected)
    for key, want in expected.items():
        torch.testing.assert_close(got[key], want, **LOSSES)


class FarCoder(BoxCoder):
    """A custom box coder."""

    def decode_single(self, codes, boxes):
        return super().decode_single(codes, boxes) + 7


def ratio(model):
    model.neg_to_pos_ratio = 1.5


def coder(model):
    model.box_coder = FarCoder((10.0, 10.0, 5.0, 5.0))


def weights(model):
    model.box_coder = BoxCoder((2.0, 2.0, 1.0, 1.0))


def clamp(model):
    model.box_coder.bbox_xform_clip = -0.5


def decoding(model):
    plain = model.box_coder.decode_single
    model.box_coder.decode_single = lambda codes, boxes: plain(codes, boxes) + 7


def size(model):
    model.transform.fixed_size = (96, 32)


def after(model):
    model.transform.postprocess = lambda result, *sizes: [{**r, "boxes": r["boxes"] + 1} for r in result]


def loss(model):
    model.compute_loss = lambda *args: {key: 2 * value for key, value in type(model).compute_loss(model, *args).items()}


def threshold(model):
    model.proposal_matcher.high_threshold = model.proposal_matcher.low_threshold = 0.3
    model.score_thresh, model.detections_per_img = 0.2, 5


@pytest.mark.parametrize("change", [ratio, coder, weights, clamp, decoding, size, after, loss, threshold])
def test_accelerated_model_follows_later_changes(change, image):
    theirs, ours = pair()
    with torch.no_grad():
        before = theirs.eval()([image]), theirs.train()([image], LABELED)
        for model in (theirs, ours):
            change(model)
        expected = theirs.eval()([image]), theirs.train()([image], LABELED)
        got = ours.eval()([image]), ours.train()([image], LABELED)
    assert_same(got[0], expected[0])
    for key, want in expected[1].items():
        torch.testing.assert_close(got[1][key], want, **LOSSES)
    changed = [before[1][key] != expected[1][key] for key in before[1]]
    assert any(changed) or not torch.equal(before[0][0]["boxes"], expected[0][0]["boxes"])


def test_accelerated_model_follows_replaced_methods(image, monkeypatch):
    class Mine(detection.ssd.SSD):
        pass

    model = tiny_ssd()
    model.__class__ = Mine
    ssd.accelerate(model.eval())
    monkeypatch.setattr(Mine, "postprocess_detections", lambda self, *args: [{"boxes": torch.ones(1, 4)}])
    assert torch.equal(model([image])[0]["boxes"], torch.ones(1, 4))
    monkeypatch.setattr(Mine, "forward", lambda self, images: "mine")
    assert model([image]) == "mine"


def test_proposals_for_images_without_objects():
    heads = ssd.accelerate(copy.deepcopy(built("faster_rcnn"))).roi_heads
    proposals = [torch.randint(-50, 50, (20, 4)).float()]
    indices, labels = heads.assign_targets_to_proposals(proposals, [torch.zeros(0, 4)], [torch.tensor([[0]])])
    for (found,) in (indices, labels):
        assert torch.equal(found, torch.zeros(20, dtype=torch.int64))


@pytest.mark.parametrize("name", ["fcos", "retinanet", "faster_rcnn"])
def test_accelerated_training_on_images_without_objects(name, image):
    theirs, ours = built(name), ssd.accelerate(copy.deepcopy(built(name)))
    losses = []
    for model in (theirs, ours):
        torch.manual_seed(0)
        losses.append(model.train()([image], [{"boxes": torch.zeros(0, 4), "labels": torch.zeros(1).long()[:0]}]))
    assert losses[0] == losses[1]


@pytest.mark.parametrize("make", [tiny_ssd, lambda: single_level(detection.FasterRCNN, "rpn_anchor_generator")])
def test_scripting_error_message(make):
    model = ssd.accelerate(make().eval())
    with pytest.raises(
        RuntimeError, match=r"torch.jit.script does not support the accelerated .*; call ssd.restore\(model\) first"
    ):
        torch.jit.script(model)
    torch.jit.script(ssd.restore(model))


def test_accelerated_model_does_not_modify_inputs(image):
    _, model = pair()
    images, targets = [image.clone()], copy.deepcopy(LABELED)
    model.train()(images, targets)
    model.eval()(images)
    assert torch.equal(images[0], image)
    assert all(torch.equal(targets[0][key], LABELED[0][key]) for key in targets[0])


def test_accelerated_model_compiles(image):
    _, model = pair()
    with torch.no_grad():
        assert_same(torch.compile(model.eval(), backend="eager")([image]), model([image]))
