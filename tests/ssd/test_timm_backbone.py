"""Tests SSD on backbones of timm, with a small fake of timm, whose import takes seconds."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from ssd.common.errors import ConfigError
from ssd.config import TrainConfig, check_settings
from ssd.engine.elastic import run_name
from ssd.models import MODELS, build_model, model_options


class Net(nn.Module):
    """Feature maps at strides 2, 4, 8, 16 and 32, as timm's networks with features_only."""

    def __init__(self) -> None:
        super().__init__()
        widths = (4, 6, 8, 10, 12)
        self.convs = nn.ModuleList(nn.Conv2d(i, o, 3, 2, 1) for i, o in zip((3, *widths), widths, strict=False))
        self.feature_info = SimpleNamespace(reduction=lambda: [2, 4, 8, 16, 32], channels=lambda: list(widths))
        self.pretrained_cfg = {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.2, 0.2)}

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        levels = [images]
        for conv in self.convs:
            levels.append(conv(levels[-1]))
        return levels[1:]


@pytest.fixture(autouse=True)
def calls(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Replaces timm; returns the arguments of its create_model."""
    made: list[dict[str, Any]] = []

    def create_model(name: str, **options: Any) -> Net:
        if name == "vit":
            raise RuntimeError("features_only not implemented for Vision Transformer models.")
        made.append({"name": name, **options})
        net = Net()
        if state := options.get("pretrained_cfg_overlay", {}).get("state_dict"):
            net.load_state_dict(state)
        return net

    fake = ModuleType("timm")
    fake.create_model = create_model  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "timm", fake)
    return made


@pytest.mark.parametrize("name", ["", "hf-hub:x/y", "local-dir:/tmp/x"])
def test_name_that_timm_would_download_raises(name: str, calls: list[dict[str, Any]]) -> None:
    with pytest.raises(ValueError, match=r"^timm:NAME needs the name of a network in timm"):
        build_model(f"timm:{name}", 3)
    assert not calls


def test_timm_detector_trains_and_is_rebuilt_without_weights(calls: list[dict[str, Any]]) -> None:
    model = build_model("timm:net", 3, image_size=96, weights_backbone="timm", min_stride=8, rule="greedy")
    assert calls[0] == {"name": "net", "features_only": True, "pretrained": True}
    assert model.backbone.out_channels == (8, 10, 12, 512, 256, 256, 128)
    assert model.preset.mean == (0.5, 0.4, 0.3) and model.preset.std == (0.2, 0.2, 0.2)
    loc, logits = model.eval().forward_raw(torch.zeros(2, 3, 96, 96))
    assert loc.shape == (2, len(model.priors), 4) and logits.shape[-1] == 3
    again = build_model(**model.build_args)
    assert calls[-1]["pretrained"] is False
    again.load_state_dict(model.state_dict())


def test_timm_weights_are_read_from_a_file(tmp_path: Path) -> None:
    state = Net().state_dict()
    torch.save(state, tmp_path / "net.pth")
    model = build_model("timm:net", 3, image_size=64, weights_backbone=str(tmp_path / "net.pth"), fpn_width=16)
    assert torch.equal(model.backbone.body.features.convs[0].weight, state["convs.0.weight"])


def test_timm_errors_name_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        ValueError, match="timm:vit: timm cannot make feature maps of it: features_only not implemented"
    ):
        build_model("timm:vit", 3)
    with pytest.raises(ValueError, match="min_stride must be at most 32, the stride of the last feature map, got 64"):
        build_model("timm:net", 3, min_stride=64)
    with pytest.raises(ValueError, match="heads must be one of lite, conv, got 'mlp'"):
        build_model("timm:net", 3, heads="mlp")
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ValueError, match=r'timm:net needs timm \(pip install "ssd_ops\[timm\]"\)'):
        build_model("timm:net", 3)


def test_timm_names_are_accepted_as_models() -> None:
    config = TrainConfig(model="timm:hf-hub:a/b", weights_backbone="timm")
    check_settings(config)
    assert run_name(config) == "timm.hf-hub.a.b-auto"
    assert "timm:x" in MODELS and "timmx" not in MODELS and "fpn_width" in model_options("timm:x")
    with pytest.raises(KeyError):
        MODELS["timmx"]
    with pytest.raises(ConfigError, match="--weights-backbone timm: no such file"):
        check_settings(TrainConfig(weights_backbone="timm"))
