"""Models: structure and names against torchvision, the registry's errors, options, dtypes and compilation."""

import copy
import json
import warnings

import pytest
import torch

from ssd import MODELS, build_model, model_options
from ssd.models.frozen import FrozenBatchNorm2d
from ssd.presets import PRESETS, Preset

SMALL = {"ssd_tiny": 64, "ssdlite320_mobilenet_v2": 96}


def test_ssd512_prior_grids_and_count():
    model = build_model("ssd512_vgg16", 2, preset="caffe")
    assert model.priors.shape == (24564, 4)
    assert [f[0] for f in model.prior_config.feature_sizes] == [64, 32, 16, 8, 4, 2, 1]
    assert model.prior_config.steps == (8, 16, 32, 64, 128, 256, 512)


def test_ssd512_training_on_meta():
    model = build_model("ssd512_vgg16", 2, preset="caffe").to("meta").train()
    loc, logits = model.forward_raw(model.normalize(torch.zeros(1, 3, 512, 512, device="meta")))
    assert loc.shape == (1, 24564, 4) and logits.shape == (1, 24564, 2)
    boxes, labels = [torch.zeros(1, 4, device="meta")], [torch.ones(1, dtype=torch.int64, device="meta")]
    sum(model.criterion(loc, logits, model.priors, boxes, labels).values()).backward()
    assert all(parameter.grad is not None for parameter in model.parameters() if parameter.requires_grad)


@pytest.mark.parametrize("name", SMALL)
def test_small_models_accept_any_image_size(name):
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


def test_build_model_suggests_similar_name():
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


@pytest.mark.parametrize("bad", [1, 0, -3])
def test_num_classes_includes_background(bad):
    with pytest.raises(ValueError, match="num_classes must be at least 2: it counts the background"):
        build_model("ssd_tiny", bad)


@pytest.mark.parametrize("bad", [True, 2.0, "4"])
def test_num_classes_must_be_integer(bad):
    with pytest.raises(ValueError, match="num_classes must be an integer, got"):
        build_model("ssd_tiny", bad)


def test_too_small_image_size_raises():
    with pytest.raises(ValueError, match="image_size 100 is too small for VGGExtractor"):
        build_model("ssd300_vgg16", 2, image_size=100)
    with pytest.raises(ValueError, match="image_size must be a positive number of pixels, got 0"):
        build_model("ssd_tiny", 2, image_size=0)


@pytest.mark.parametrize("name", sorted(MODELS.keys() - {f"ssd300_resnet{depth}" for depth in (34, 101, 152)}))
def test_build_args_rebuild_the_model(name):
    options = {"image_size": SMALL[name], "rule": "greedy"} if name in SMALL else {"preset": "amdegroot"}
    model = build_model(name, 3, **options)
    again = build_model(**json.loads(json.dumps(model.build_args)))
    again.load_state_dict(model.state_dict())
    assert again.preset == model.preset and again.prior_config == model.prior_config
    assert torch.equal(again.priors, model.priors)


def test_build_model_takes_custom_preset():
    mine = Preset(
        "mine", prior_sizes=(10, 20, 30, 40, 60), rule="none", min_negatives=7, channels="bgr", mean=[0.1, 0.2, 0.3]
    )
    model = build_model("ssd_tiny", 2, preset=mine, image_size=64)
    assert model.criterion.preset.rule == "none" and model.criterion.preset.min_negatives == 7
    image = torch.rand(1, 3, 64, 64)
    expected = (image[:, [2, 1, 0]] - torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1)) * 255
    torch.testing.assert_close(model.normalize(image), expected)
    assert build_model(**model.build_args).preset.mean == (0.1, 0.2, 0.3)
    assert set(PRESETS) >= {"torchvision", "caffe", "amdegroot"}
    with pytest.raises(ValueError, match="nms_iou_threshold must be a finite number, got nan"):
        build_model("ssd_tiny", 2, nms_iou_threshold=float("nan"))


def test_model_dtype_deepcopy_and_state_dict():
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


def test_frozen_batch_norm_stays_frozen_and_fits_checkpoints():
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


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name == "ssd_tiny" else pytest.mark.slow) for name in SMALL]
)
def test_inference_compiles_to_one_graph(name):
    model = build_model(name, 3, image_size=64).eval()

    def run(images):
        loc, logits = model.forward_raw(model.normalize(images))
        return (loc, logits, *model.detect(loc, logits))

    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for got, expected in zip(torch.compile(run, fullgraph=True, backend="eager")(images), run(images), strict=True):
            torch.testing.assert_close(got, expected)


@pytest.mark.slow
def test_training_compiles_to_one_graph():
    model = build_model("ssd_tiny", 3, image_size=64).train()
    images, boxes = torch.rand(2, 3, 64, 64), torch.tensor([[0.1, 0.1, 0.6, 0.5], [0.3, 0.2, 0.9, 0.9], [0, 0, 0.4, 1]])
    truths = boxes, torch.tensor([1, 2, 1]), torch.tensor([0, 1, 3])

    def losses(images, *truths):
        return sum(model.criterion(*model.forward_raw(model.normalize(images)), model.priors, *truths).values())

    found = []
    for call in (losses, torch.compile(losses, fullgraph=True, backend="aot_eager")):
        loss = call(images, *truths)
        found.append((loss, *torch.autograd.grad(loss, list(model.parameters()))))
    for expected, got in zip(*found, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-4 * expected.abs().max().item() + 1e-5)


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
