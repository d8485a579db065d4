"""Tests settings that are chosen automatically for custom data."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from torch import nn
from torchvision.models import MobileNet_V2_Weights, mobilenet_v2, mobilenet_v3_large, resnet18, resnet50, vgg16

from ssd import build_model
from ssd.config import TrainConfig, torchvision_defaults
from ssd.engine.auto_settings import Choices, Facts, choose_model, choose_settings
from ssd.models.backbone_weights import model_of_backbone
from ssd.programs.train_arguments import parse_args
from tests.ssd.test_recipes import write_coco_split

BIG = torch.full((50,), 0.4)


def chosen(facts: Facts, **values: object) -> TrainConfig:
    config = TrainConfig.of({"dataset": "voc", "data_path": "somewhere", **values})
    choices = choose_model(config)
    choose_settings(choices, facts)
    return config


@pytest.fixture(autouse=True)
def no_downloaded_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))


def test_auto_settings_for_few_hundred_images_on_two_cores() -> None:
    config = chosen(Facts(205, BIG, "cpu", 2))
    assert (config.model, config.image_size, config.opt) == ("ssd_tiny", 160, "adamw")
    assert (config.batch_size, config.workers, config.epochs) == (16, 1, 127)
    assert config.clip_grad_norm == 10 and config.ema_decay == 0.99 and config.lr == 0.002
    assert config.fit_priors and config.channels_last and not config.amp
    assert config.model_options == {"rule": "greedy", "width": 32, "match_iou_threshold": 0.4}
    assert config.backbone_lr_factor == 1.0 and config.weights_backbone is None


@pytest.mark.parametrize(("images", "batch"), [(1, 2), (12, 3), (31, 7), (32, 16), (1999, 16), (2000, 16)])
def test_auto_batch_size_follows_number_of_images(images: int, batch: int) -> None:
    config = chosen(Facts(images, BIG, "cpu", 2))
    assert config.batch_size == batch
    assert 12 <= config.epochs <= 200 and config.warmup_iters <= 100


def test_auto_image_size_grows_for_small_objects() -> None:
    facts = Facts(300, torch.full((50,), 0.02), "cpu", 2)
    for model in ({}, {"model": "ssdlite320_mobilenet_v2"}):
        assert chosen(facts, **model).image_size == 416
        assert chosen(facts, **model, image_size=320).image_size == 320
    assert chosen(Facts(300, torch.full((50,), 0.06), "cpu", 2)).image_size == 320
    assert chosen(Facts(300, BIG, "cpu", 2), model="ssdlite320_mobilenet_v2").image_size is None
    assert chosen(Facts(300, torch.full((50,), 0.08), "cpu", 2)).image_size == 224
    assert chosen(Facts(300, torch.zeros(0), "cpu", 2)).image_size == 160
    crowded = chosen(Facts(205, torch.full((2804,), 0.15), "cpu", 2))
    assert (crowded.image_size, crowded.batch_size, crowded.epochs) == (320, 8, 26)
    assert "match_iou_threshold" not in crowded.model_options


def test_auto_settings_respect_given_settings() -> None:
    facts = Facts(300, BIG, "cpu", 2)
    config = chosen(facts, lr=0.5, epochs=3, model_options={"rule": "last"}, fit_priors=False, lr_steps=[2])
    assert (config.lr, config.epochs, config.fit_priors, config.lr_scheduler) == (0.5, 3, False, "multisteplr")
    assert config.model_options == {"rule": "last", "width": 32, "match_iou_threshold": 0.4}
    assert chosen(facts, model="ssd300_vgg16").lr == 0.0002
    assert chosen(facts, model="ssd300_vgg16", opt="sgd").lr == 0.001


@pytest.mark.parametrize("values", [{"defaults": "torchvision"}, {"dataset": "shapes"}])
def test_named_defaults_disable_auto_settings(values: dict[str, str]) -> None:
    config = TrainConfig.of({"dataset": "voc", "data_path": "somewhere", **values})
    before = asdict(config)
    choices = choose_model(config)
    choose_settings(choices, Facts(300, BIG, "cpu", 2))
    assert asdict(config) == before and str(choices) == ""


def test_torchvision_defaults_need_torchvision_flags(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_coco_split(tmp_path / "coco", "train", 2)
    monkeypatch.chdir(tmp_path)
    config = parse_args(["--dataset", "coco", "--aspect-ratio-group-factor", "3"])
    assert config.defaults == "torchvision" and config.given is None
    assert {name: getattr(config, name) for name in torchvision_defaults()} == torchvision_defaults()
    assert parse_args(["--dataset", "coco"]).given is not None


def test_recipe_and_saved_config_are_not_changed(tmp_path: Path) -> None:
    write_coco_split(tmp_path / "coco", "train", 2)
    assert parse_args(["--config", "bccd", "--data-path", str(tmp_path / "coco"), "--dataset", "coco"]).given is None
    config = chosen(Facts(205, BIG, "cpu", 2))
    (tmp_path / "config.json").write_text(json.dumps(asdict(config)))
    again = parse_args(["--config", str(tmp_path / "config.json"), "--data-path", str(tmp_path)])
    choices = Choices(again)
    choose_settings(choices, Facts(9999, BIG, "cuda", 64))
    assert asdict(again) == {**asdict(config), "data_path": str(tmp_path)}


def test_auto_settings_use_downloaded_weights(tmp_path: Path) -> None:
    cache = tmp_path / "torch" / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    (cache / Path(MobileNet_V2_Weights.IMAGENET1K_V1.url).name).touch()
    for values in ({}, {"model": "ssdlite320_mobilenet_v2"}):
        config = chosen(Facts(205, BIG, "cpu", 2), **values)
        assert config.model == "ssdlite320_mobilenet_v2"
        assert config.weights_backbone == "MobileNet_V2_Weights.IMAGENET1K_V1" and config.backbone_lr_factor == 0.05
        assert config.model_options["min_stride"] == 8 and config.model_options["fpn_width"] == 96
    assert chosen(Facts(205, BIG, "cpu", 2), model="ssd_tiny").weights_backbone is None


NETWORKS = {
    "ssd300_vgg16": vgg16,
    "ssd300_resnet18": resnet18,
    "ssd300_resnet50": resnet50,
    "ssdlite320_mobilenet_v2": mobilenet_v2,
    "ssdlite320_mobilenet_v3_large": mobilenet_v3_large,
}


@pytest.mark.parametrize("name", NETWORKS)
def test_auto_model_follows_given_backbone(name: str, tmp_path: Path) -> None:
    with torch.device("meta"):
        net: nn.Module = NETWORKS[name]()
    state = {key: torch.zeros(()).expand(value.shape) for key, value in net.state_dict().items()}
    torch.save(state, tmp_path / "weights.pth")
    assert model_of_backbone(tmp_path / "weights.pth") == name


def test_auto_model_and_preset_follow_given_weights(tmp_path: Path) -> None:
    model = build_model("ssd_tiny", 3, image_size=96, width=4, nms_iou_threshold=0.3)
    torch.save({"model": model.state_dict(), "build_args": model.build_args}, tmp_path / "run.pt")
    config = chosen(Facts(300, BIG, "cpu", 2), weights=str(tmp_path / "run.pt"))
    assert (config.model, config.image_size, config.model_options["width"]) == ("ssd_tiny", 96, 4)
    assert config.model_options["nms_iou_threshold"] == 0.3 and not config.fit_priors
