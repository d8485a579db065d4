"""Tests backbone weights of every supported layout, and the errors that list mismatches."""

from urllib.error import URLError

import pytest
import torch
import torchvision
from torchvision.models.vgg import cfgs, make_layers

from ssd import build_model
from ssd.models.backbone_weights import VGG_CAFFE, load_backbone, model_of_backbone, read_state_dict
from ssd.models.vgg import SSD300_EXTRAS, VGGExtractor
from ssd.weight_files.protobuf_files import write_caffemodel
from tests.ssd.real_data import real_data


@pytest.fixture(scope="module")
def vgg_state():
    torch.manual_seed(3)
    return make_layers(cfgs["D"], batch_norm=False).state_dict()


def saved(tmp_path, state):
    torch.save(state, tmp_path / "weights.pth")
    return str(tmp_path / "weights.pth")


@pytest.mark.parametrize("prefix", ["features.", "module.features.", "backbone.features.", ""])
def test_vgg_weight_layouts(tmp_path, vgg_state, prefix):
    state = {prefix + k: v for k, v in vgg_state.items()}
    if "features" in prefix:
        state["module.classifier.0.weight" if "module" in prefix else "classifier.0.weight"] = torch.zeros(2, 2)
    path = saved(tmp_path, {"model": state, "epoch": 3} if prefix else state)
    backbone = VGGExtractor(make_layers(cfgs["D"], batch_norm=False), SSD300_EXTRAS)
    fc6 = backbone.extra[0][7][1].weight.clone()
    names = load_backbone(backbone, path, "vgg16")
    assert len(names) == 26
    assert torch.equal(backbone.features[0].weight, vgg_state["0.weight"])
    assert torch.equal(backbone.features[21].bias, vgg_state["21.bias"])
    assert torch.equal(backbone.extra[0][1].weight, vgg_state["24.weight"])
    assert torch.equal(backbone.extra[0][5].weight, vgg_state["28.weight"])
    assert torch.equal(backbone.extra[0][7][1].weight, fc6)


def test_caffe_reduced_vgg_fills_fc6_and_fc7(tmp_path, vgg_state):
    state = dict(vgg_state)
    state |= {"31.weight": torch.ones(1024, 512, 3, 3), "31.bias": torch.ones(1024)}
    state |= {"33.weight": torch.full((1024, 1024, 1, 1), 2.0), "33.bias": torch.ones(1024)}
    model = build_model("ssd300_vgg16", 2, weights_backbone=saved(tmp_path, state))
    assert (model.backbone.extra[0][7][1].weight == 1).all() and (model.backbone.extra[0][7][3].weight == 2).all()
    # with weights the first stage is frozen, as in torchvision
    assert [p.requires_grad for p in model.backbone.features.parameters()][:6] == [False] * 4 + [True] * 2
    assert model.build_args["trainable_layers"] == 4 and "weights_backbone" not in model.build_args


def caffe_state(vgg_state, fc6, fc7):
    """The weights of Caffe's VGG16, with its names and its biases of shape [1, 1, 1, N]."""
    state = {}
    for name, index in VGG_CAFFE.items():
        if name.startswith("conv"):
            state[f"{name}.weight"] = vgg_state[f"{index}.weight"]
            state[f"{name}.bias"] = vgg_state[f"{index}.bias"].reshape(1, 1, 1, -1)
    for name, weight in (("fc6", fc6), ("fc7", fc7), ("fc8", torch.zeros(1000, len(fc7)))):
        state |= {f"{name}.weight": weight, f"{name}.bias": torch.ones(1, 1, 1, len(weight))}
    return state


def test_caffemodel_of_the_reduced_vgg_is_a_backbone(tmp_path, vgg_state):
    pytest.importorskip("google.protobuf")
    path = tmp_path / "VGG_ILSVRC_16_layers_fc_reduced.caffemodel"
    state = caffe_state(vgg_state, torch.full((1024, 512, 3, 3), 3.0), torch.full((1024, 1024, 1, 1), 2.0))
    write_caffemodel({name: value.numpy() for name, value in state.items()}, path)
    assert model_of_backbone(path) == "ssd300_vgg16"
    backbone = VGGExtractor(make_layers(cfgs["D"], batch_norm=False), SSD300_EXTRAS)
    assert len(load_backbone(backbone, path, "vgg16", "bgr")) == 30
    assert torch.equal(backbone.features[0].weight, vgg_state["0.weight"])
    assert torch.equal(backbone.extra[0][5].bias, vgg_state["28.bias"])
    assert (backbone.extra[0][7][1].weight == 3).all() and (backbone.extra[0][7][3].weight == 2).all()


def test_caffe_weights_are_reordered_for_rgb_and_large_layers_dropped(tmp_path, vgg_state):
    path = saved(tmp_path, caffe_state(vgg_state, torch.zeros(4096, 2), torch.zeros(4096, 2)))
    model = build_model("ssd300_vgg16", 2, weights_backbone=path)
    assert torch.equal(model.backbone.features[0].weight, vgg_state["0.weight"].flip(1))
    model = build_model("ssd300_vgg16", 2, weights_backbone=path, preset="caffe")
    assert torch.equal(model.backbone.features[0].weight, vgg_state["0.weight"])


def test_backbone_mismatch_error_lists_all_weights(tmp_path, vgg_state):
    state = {"features." + k: v for k, v in vgg_state.items()}
    del state["features.5.bias"], state["features.24.weight"]
    state["features.99.weight"] = torch.zeros(1)
    state["features.0.weight"] = torch.zeros(64, 1, 3, 3)
    with pytest.raises(ValueError) as error:
        build_model("ssd300_vgg16", 2, weights_backbone=saved(tmp_path, state))
    text = str(error.value)
    assert "2 missing: extra.0.1.weight, features.5.bias" in text
    assert "1 unexpected: features.99.weight" in text
    assert "1 of another shape: features.0.weight: (64, 1, 3, 3) in the file, (64, 3, 3, 3) in the model" in text
    with pytest.raises(ValueError, match="must hold a state dict"):
        read_state_dict(saved(tmp_path, [1, 2]))
    with pytest.raises(FileNotFoundError, match=r"no file 'nowhere\.pth'; pass a file, a name of torchvision"):
        build_model("ssd300_vgg16", 2, weights_backbone="nowhere.pth")


def test_backbone_nan_error_names_weight(tmp_path, vgg_state):
    state = {"features." + k: v for k, v in vgg_state.items()}
    state["features.2.bias"] = torch.full((64,), float("nan"))
    with pytest.raises(ValueError, match=r"NaN or inf in features\.2\.bias"):
        build_model("ssd300_vgg16", 2, weights_backbone=saved(tmp_path, state))


def test_torchvision_backbone_weight_names(monkeypatch, vgg_state):
    state = {"features." + k: v for k, v in vgg_state.items()}
    weights = torchvision.models.VGG16_Weights.IMAGENET1K_FEATURES
    asked = []

    def get_state_dict(self, *args, **kwargs):
        asked.append((self, kwargs.get("check_hash")))
        return dict(state)

    monkeypatch.setattr(type(weights), "get_state_dict", get_state_dict)
    model = build_model("ssd300_vgg16", 2, weights_backbone="VGG16_Weights.IMAGENET1K_FEATURES")
    assert asked == [(weights, True)] and torch.equal(model.backbone.features[2].weight, vgg_state["2.weight"])
    with pytest.raises(ValueError, match="did you mean 'VGG16_Weights'"):
        build_model("ssd300_vgg16", 2, weights_backbone="VGG_16_Weights.IMAGENET1K_FEATURES")
    with pytest.raises(ValueError, match=r"did you mean 'VGG16_Weights\.IMAGENET1K_FEATURES'"):
        build_model("ssd300_vgg16", 2, weights_backbone="VGG16_Weights.IMAGENET1K_FEATURE")

    def fail(self, *args, **kwargs):
        raise URLError("no route")

    monkeypatch.setattr(type(weights), "get_state_dict", fail)
    with pytest.raises(
        RuntimeError, match=r"could not download VGG16_Weights.IMAGENET1K_FEATURES from https://.*no route"
    ):
        build_model("ssd300_vgg16", 2, weights_backbone="VGG16_Weights.IMAGENET1K_FEATURES")


def test_mobilenet_ignores_classifier_weights(tmp_path):
    torch.manual_seed(4)
    source = torchvision.models.mobilenet_v2(weights=None, num_classes=7)
    half = {k: v.half() if v.is_floating_point() else v for k, v in source.state_dict().items()}
    model = build_model("ssdlite320_mobilenet_v2", 2, image_size=64, weights_backbone=saved(tmp_path, half))
    weight = model.backbone.features[14].conv[0][0].weight
    assert weight.dtype == torch.float32 and torch.equal(weight, source.features[14].conv[0][0].weight.half().float())
    assert model.build_args["freeze_bn"] is True
    again = build_model(**model.build_args)
    again.load_state_dict(model.state_dict())
    images = torch.rand(2, 3, 64, 64)
    again.train(), model.train()
    model.backbone.extra.eval(), again.backbone.extra.eval()
    assert torch.equal(again.backbone(images)[1], model.backbone(images)[1])  # frozen there as it was here


def test_mobilenet_with_imagenet_weights():
    file = real_data("mobilenet_v2_imagenet_features_fp16.pth")
    model = build_model("ssdlite320_mobilenet_v2", 4, image_size=96, weights_backbone=str(file)).eval()
    state = torch.load(file, weights_only=True)
    assert len(state) == 312
    own = model.backbone.state_dict()
    assert all(torch.equal(own[k], v.to(own[k].dtype)) for k, v in state.items())
    with torch.no_grad():
        assert all(torch.isfinite(f).all() for f in model.backbone(model.normalize(torch.rand(1, 3, 96, 96))))
