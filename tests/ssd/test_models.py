"""Models: structure and names against torchvision, the registry's errors, options, dtypes and compilation."""

import copy
import json
import warnings

import pytest
import torch
import torchvision

from ssd import MODELS, build_model, model_options
from ssd.models.frozen import FrozenBatchNorm2d
from ssd.presets import PRESETS, Preset

SMALL = {"ssd_tiny": 64, "ssdlite320_mobilenet_v2": 96}


@pytest.fixture(scope="module")
def vgg_pair():
    """torchvision's SSD300 and ours with the same random weights."""
    torch.manual_seed(0)
    theirs = torchvision.models.detection.ssd300_vgg16(weights=None, weights_backbone=None, num_classes=4).eval()
    ours = build_model("ssd300_vgg16", 4, score_threshold=0.02).eval()
    ours.load_state_dict(theirs.state_dict())  # strict: the names and shapes are torchvision's
    return theirs, ours


def test_ssd300_is_torchvisions_network(vgg_pair):
    theirs, ours = vgg_pair
    assert list(ours.state_dict()) == list(theirs.state_dict())  # also: priors and constants are not in it
    images = torch.rand(2, 3, 300, 300)
    with torch.no_grad():
        features = theirs.backbone(theirs.transform.normalize(images[0])[None])
        expected = theirs.head(list(features.values()))
        loc, logits = ours.forward_raw(ours.normalize(images[:1]))
    assert loc.shape == (1, 8732, 4) and logits.shape == (1, 8732, 4) and ours.priors.shape == (8732, 4)
    assert torch.equal(loc, expected["bbox_regression"])
    assert torch.equal(logits, expected["cls_logits"])
    assert [tuple(f.shape[-2:]) for f in features.values()] == list(ours.prior_config.feature_sizes)


def test_ssd300_detects_what_torchvision_detects(vgg_pair):
    theirs, ours = (copy.deepcopy(m) for m in vgg_pair)
    theirs.score_thresh = ours.preset.score_threshold
    for model in (theirs, ours):  # random heads are sure of everything; smaller weights spread the scores
        for parameter in model.head.parameters():
            parameter.data *= 0.02
    images = [torch.rand(3, 300, 300), torch.rand(3, 211, 320)]
    with torch.no_grad():
        (same, warped), (same_tv, warped_tv) = ours(images), theirs(images)
    assert len(same["boxes"]) == 200
    # of the network's own size: the same logits to the bit, so the same detections in the same order
    assert torch.equal(same["labels"], same_tv["labels"])
    torch.testing.assert_close(same["scores"], same_tv["scores"], rtol=0, atol=1e-6)
    torch.testing.assert_close(same["boxes"], same_tv["boxes"], rtol=0, atol=1e-3)
    # warped before it is normalised, not after: the same up to rounding
    torch.testing.assert_close(warped["scores"], warped_tv["scores"], rtol=0, atol=1e-4)


def test_ssd300_losses_are_torchvisions(vgg_pair):
    theirs, ours = (copy.deepcopy(m).train() for m in vgg_pair)
    images = [torch.rand(3, 300, 300)]  # not warped, so forward is equal to the bit
    targets = [
        {"boxes": torch.tensor([[20.0, 30, 180, 200], [200, 100, 290, 230]]), "labels": torch.tensor([1, 3])},
    ]
    expected, got = theirs(images, targets), ours(images, targets)
    assert set(got) == set(expected) == {"bbox_regression", "classification"}
    for name in got:
        torch.testing.assert_close(got[name], expected[name], rtol=1e-5, atol=0)
    sum(expected.values()).backward()
    sum(got.values()).backward()
    grads = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        difference = (parameter.grad - grads[name].grad).norm()
        assert difference <= 1e-4 * grads[name].grad.norm(), name


def test_ssd512_has_its_priors():
    model = build_model("ssd512_vgg16", 2, preset="caffe")
    assert model.priors.shape == (24564, 4)
    assert [f[0] for f in model.prior_config.feature_sizes] == [64, 32, 16, 8, 4, 2, 1]
    assert model.prior_config.steps == (8, 16, 32, 64, 128, 256, 512)


@pytest.mark.parametrize("name", SMALL)
def test_small_models_run_at_any_size(name):
    for size in (SMALL[name], SMALL[name] + 37):
        model = build_model(name, 3, image_size=size).eval()
        with torch.no_grad():
            loc, logits = model.forward_raw(
                model.normalize(torch.randint(0, 256, (2, 3, size, size), dtype=torch.uint8))
            )
        assert loc.shape == (2, len(model.priors), 4) and logits.shape == (2, len(model.priors), 3)
        found = model.detect(loc, logits)
        assert found.boxes.shape == (2, model.preset.max_detections, 4)
        assert model([]) == []


def test_mobilenet_defaults_and_options():
    model = build_model("ssdlite320_mobilenet_v2", 4)
    assert len(model.priors) == 3234 and [f[0] for f in model.prior_config.feature_sizes] == [20, 10, 5, 3, 2, 1]
    assert model.backbone.out_channels == (576, 1280, 512, 256, 256, 128)
    sizes = (16, 32, 64, 100, 150, 200, 250, 300)
    fine = build_model(
        "ssdlite320_mobilenet_v2",
        4,
        image_size=300,
        min_stride=8,
        fpn_width=48,
        head_width=32,
        prior_sizes=sizes,
        extra_channels=(64,) * 4,
    ).eval()
    assert fine.prior_config.feature_sizes[0] == (38, 38) and fine.backbone.out_channels == (48,) * 7
    assert [s[0] for s in fine.prior_config.min_sizes] == list(sizes[:-1])
    with torch.no_grad():
        loc, _ = fine.forward_raw(torch.zeros(1, 3, 300, 300))
    assert loc.shape == (1, len(fine.priors), 4)
    with pytest.raises(ValueError, match="min_stride must be one of 4, 8, 16, got 2"):
        build_model("ssdlite320_mobilenet_v2", 4, min_stride=2)


def test_registry_names_the_near_one():
    for call, words in (
        (lambda: build_model("ssd300_vg16", 4), "unknown model 'ssd300_vg16', did you mean 'ssd300_vgg16'"),
        (lambda: build_model("SSD_Tiny", 4), "did you mean 'ssd_tiny'"),
        (lambda: build_model("ssd_tiny", 4, preset="cafe"), "unknown preset 'cafe', did you mean 'caffe'"),
        (
            lambda: build_model("ssd_tiny", 4, score_treshold=0.1),
            "option of ssd_tiny 'score_treshold', did you mean 'score_threshold'",
        ),
        (lambda: build_model("ssd_tiny", 4, min_stride=8), "unknown option of ssd_tiny 'min_stride'"),
    ):
        with pytest.raises(ValueError, match=words):
            call()
    assert {"width", "prior_sizes", "rule"} <= set(model_options("ssd_tiny"))


@pytest.mark.parametrize("bad", [1, 0, -3, True, 2.0, "4"])
def test_num_classes_counts_the_background(bad):
    with pytest.raises(ValueError, match="num_classes must be at least 2: it counts the background"):
        build_model("ssd_tiny", bad)


def test_too_small_input_is_named():
    with pytest.raises(ValueError, match="image_size 100 is too small for VGGExtractor"):
        build_model("ssd300_vgg16", 2, image_size=100)
    with pytest.raises(ValueError, match="image_size must be a positive number of pixels, got 0"):
        build_model("ssd_tiny", 2, image_size=0)


@pytest.mark.parametrize("name", MODELS)
def test_build_args_rebuild_the_model(name):
    options = {"image_size": SMALL[name], "rule": "greedy"} if name in SMALL else {"preset": "amdegroot"}
    model = build_model(name, 3, **options)
    again = build_model(**json.loads(json.dumps(model.build_args)))
    again.load_state_dict(model.state_dict())
    assert again.preset == model.preset and again.prior_config == model.prior_config
    assert torch.equal(again.priors, model.priors)


def test_own_preset_is_data():
    mine = Preset(
        "mine", prior_sizes=(10, 20, 30, 40, 60), rule="none", min_negatives=7, channels="bgr", mean=[0.1, 0.2, 0.3]
    )
    model = build_model("ssd_tiny", 2, preset=mine, image_size=64)
    assert model.criterion.rule == "none" and model.criterion.min_negatives == 7
    image = torch.rand(1, 3, 64, 64)
    expected = (image[:, [2, 1, 0]] - torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1)) * 255
    torch.testing.assert_close(model.normalize(image), expected)
    assert build_model(**model.build_args).preset.mean == (0.1, 0.2, 0.3)
    assert set(PRESETS) >= {"torchvision", "caffe", "amdegroot"}
    with pytest.raises(ValueError, match="nms_threshold must lie in"):
        build_model("ssd_tiny", 2, nms_threshold=float("nan"))


def test_dtypes_copies_and_state():
    model = build_model("ssd_tiny", 3, image_size=64)
    assert not {"priors", "mean", "std"} & set(model.state_dict())
    priors = model.priors.clone()
    half = copy.deepcopy(model).to(torch.bfloat16).eval()
    assert half.priors.dtype == torch.float32 and torch.equal(half.priors, priors)
    loc, logits = half.forward_raw(half.normalize(torch.rand(1, 3, 64, 64)))
    assert loc.dtype == torch.bfloat16 and half.detect(loc, logits).boxes.dtype == torch.float32
    empty = copy.deepcopy(model).to("meta").to_empty(device="cpu")  # must not leave the priors without values
    assert torch.equal(empty.priors, priors) and torch.equal(empty.mean, model.mean)
    assert copy.deepcopy(model).state_dict().keys() == model.state_dict().keys()


def test_frozen_batch_norm_stays_and_fits_checkpoints():
    frozen = build_model("ssdlite320_mobilenet_v2", 2, image_size=64, freeze_bn=True).train()
    plain = build_model("ssdlite320_mobilenet_v2", 2, image_size=64).train()
    assert list(frozen.state_dict()) == list(plain.state_dict())
    layers = [m for m in frozen.backbone.features.modules() if isinstance(m, FrozenBatchNorm2d)]
    assert len(layers) == 52 and not any(m.training for m in layers)
    assert not any(p.requires_grad for m in layers for p in m.parameters())
    before = layers[0].running_mean.clone()
    frozen.forward_raw(torch.rand(2, 3, 64, 64))
    assert torch.equal(layers[0].running_mean, before)
    assert frozen.backbone.extra[0][0][1].training  # what has no loaded statistics still learns them


@pytest.mark.parametrize("name", SMALL)
def test_compiles_to_one_graph(name):
    model = build_model(name, 3, image_size=64).eval()

    def run(images):
        loc, logits = model.forward_raw(model.normalize(images))
        return (loc, logits, *model.detect(loc, logits))

    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for got, expected in zip(torch.compile(run, fullgraph=True, backend="eager")(images), run(images), strict=True):
            torch.testing.assert_close(got, expected)


def test_channels_last_and_autocast():
    model = build_model("ssd_tiny", 3, image_size=64).train().to(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        loc, logits = model.forward_raw(torch.rand(2, 3, 64, 64).contiguous(memory_format=torch.channels_last))
        assert loc.dtype == torch.bfloat16
        boxes, labels = [torch.tensor([[0.1, 0.1, 0.6, 0.5]])] * 2, [torch.tensor([1])] * 2
        losses = model.criterion(loc, logits, model.priors, boxes, labels)
    assert losses["cls"].dtype == torch.float32 and torch.isfinite(losses["cls"])
    sum(losses.values()).backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())
