"""Tests Soft-NMS as the post-processing of a detector."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

import ssd_ops
from ssd.inference.engine import InferenceEngine
from ssd.models import SSD, build_model
from ssd.programs.export import main as export
from ssd.programs.predict import main as predict
from tests.ssd.small_detectors import spread_detector

SIGMA = 0.3


@pytest.fixture(scope="module")
def model() -> SSD:
    return spread_detector(soft_nms_sigma=SIGMA, score_threshold=0.1)


@pytest.fixture(scope="module")
def outputs(model: SSD) -> tuple[Tensor, Tensor]:
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return model.forward_raw(model.normalize(images))


def test_detections_are_those_of_soft_nms(model: SSD, outputs: tuple[Tensor, Tensor]) -> None:
    loc, logits = outputs
    boxes = ssd_ops.decode_boxes(loc, model.priors, model.preset.variances).clamp(0, 1)
    expected = ssd_ops.soft_nms(boxes, logits.softmax(-1), sigma=SIGMA, score_threshold=0.1, max_detections=200)
    found = model.detect(loc, logits)
    assert type(found) is ssd_ops.Detections and found.counts.min() > 0
    for value, wanted in zip(found, expected[:4], strict=True):
        assert torch.equal(value, wanted)
    hard = model.detect(loc, logits, model.preset.replace(soft_nms_sigma=None))
    assert not torch.equal(hard.scores, found.scores)


def test_small_boxes_are_dropped_before(model: SSD, outputs: tuple[Tensor, Tensor]) -> None:
    found = model.detect(*outputs, model.preset.replace(min_size=0.2))
    assert found.counts.min() > 0
    for boxes, count in zip(found.boxes, found.counts.tolist(), strict=True):
        assert (boxes[:count, 2:] - boxes[:count, :2]).min() >= 0.2


def test_engine_and_levels_give_the_same(model: SSD) -> None:
    image = torch.randint(0, 256, (3, 64, 64), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    exact = InferenceEngine(model, exact=True).predict([image])[0]
    engine = InferenceEngine(model, dtype=torch.float32).predict([image])[0]
    torch.testing.assert_close(engine["scores"], exact["scores"], rtol=0, atol=1e-3)
    assert len(exact["scores"]) > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"soft_nms_sigma": 0.0}, "soft_nms_sigma must be a positive number"),
        ({"soft_nms_sigma": float("inf")}, "soft_nms_sigma must be a finite number"),
        ({"soft_nms_sigma": 0.5, "multi_label": False}, "multi_label must be True if soft_nms_sigma is set"),
    ],
)
def test_bad_rules_raise(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_model("ssd_tiny", 3, image_size=64, **options)


@pytest.fixture
def checkpoint(model: SSD, tmp_path: Path) -> Path:
    path = tmp_path / "model.pt"
    torch.save({"build_args": model.build_args, "classes": ["disc", "star"], "model": model.state_dict()}, path)
    return path


def test_programs_that_cannot_use_it_say_so(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="which ONNX cannot express: export with --no-nms, or --to pt2"):
        export([str(checkpoint), "--to", "onnx"])
    with pytest.raises(SystemExit):
        predict([str(checkpoint), str(checkpoint), "--soft-nms", "--nms-threshold", "0.5"])
    assert "--nms-threshold cannot be combined with --soft-nms" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        predict(["--soft-nms", str(checkpoint), str(checkpoint)])
    assert "write files before --soft-nms" in capsys.readouterr().err


def test_exported_program_has_it(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    export([str(checkpoint), str(tmp_path / "model.pt2")])  # checks the program against the detector
    assert "model.pt2" in capsys.readouterr().out
