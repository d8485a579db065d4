"""Weights by name of torchvision, short and full, and .safetensors files with all that a detector needs."""

from __future__ import annotations

import sys
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
from PIL import Image
from torchvision.models.detection import SSDLite320_MobileNet_V3_Large_Weights

import ssd
from ssd import build_model, load_weights
from ssd.common.errors import ConfigError, DataError
from ssd.programs.convert import main as convert
from ssd.programs.eval import parse_args as parse_eval
from ssd.programs.export import parse_args as parse_export
from ssd.programs.predict import main as predict
from ssd.programs.train_arguments import parse_args
from ssd.weight_files.names import DETECTORS, checked_checkpoint, full_name

LITE = "SSDLite320_MobileNet_V3_Large_Weights.COCO_V1"


@pytest.fixture
def downloads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Fake of torchvision's download; holds the requested names."""
    names: list[str] = []
    state = build_model("ssdlite320_mobilenet_v3_large", 91, reduced_tail=True).state_dict()

    def get_state_dict(self: SSDLite320_MobileNet_V3_Large_Weights, **_: object) -> dict[str, torch.Tensor]:
        names.append(str(self))
        return state

    monkeypatch.setattr(SSDLite320_MobileNet_V3_Large_Weights, "get_state_dict", get_state_dict)
    return names


def test_short_weight_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in DETECTORS:
        assert full_name(name) == full_name(name.replace("_Weights", "")) == name
    assert full_name("COCO_V1", "ssd300_vgg16") == "SSD300_VGG16_Weights.COCO_V1"
    assert full_name("COCO_V1", "ssdlite320_mobilenet_v3_large") == LITE
    assert full_name("runs/x") == "runs/x" and full_name("VGG16_Weights.IMAGENET1K_V1") == "VGG16_Weights.IMAGENET1K_V1"
    with pytest.raises(ConfigError, match=rf"COCO_V1 is a name .* of several models: pass {DETECTORS[0]} or {LITE}"):
        full_name("COCO_V1")
    with pytest.raises(ConfigError, match=rf"checkpoint nowhere does not exist; torchvision's weights are .*{LITE}"):
        checked_checkpoint("nowhere")
    monkeypatch.chdir(tmp_path)
    Path("COCO_V1").touch()
    assert full_name("COCO_V1") == "COCO_V1"  # a file of that name takes precedence
    Path("model.ckpt.index").touch()
    assert checked_checkpoint("model.ckpt") == "model.ckpt"


def test_load_by_short_name_has_class_names(downloads: list[str]) -> None:
    detector = ssd.load(LITE.replace("_Weights", ""), "cpu")
    assert downloads == [LITE] and len(detector.classes) == 90
    assert detector.classes[0] == "person" and detector.classes[89] == "toothbrush"


def test_programs_accept_weight_names(downloads: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    predict(
        [
            LITE.replace("_Weights", ""),
            str(tmp_path / "a.png"),
            "--output-dir",
            str(tmp_path / "out"),
            "--device",
            "cpu",
        ]
    )
    convert([LITE, str(tmp_path / "slim.pth"), "--to", "ssd"])
    assert len(downloads) == 2 and ssd.load(tmp_path / "slim.pth", "cpu").classes[0] == "person"
    config = parse_args(["--weights", "COCO_V1", "--model", "ssdlite320_mobilenet_v3_large"])
    assert config.weights == LITE
    assert parse_eval(["SSD300_VGG16.COCO_V1", "--dataset", "shapes"])[0].checkpoint == DETECTORS[0]
    assert parse_export(["SSD300_VGG16.COCO_V1", "x.pt2"]).checkpoint == DETECTORS[0]
    capsys.readouterr()
    for arguments in (["predict.py", "COCO_V1", "."], ["train.py", "--weights", "COCO_V1"]):
        with pytest.raises(SystemExit):
            (predict if arguments[0] == "predict.py" else parse_args)(arguments[1:])
        assert "COCO_V1 is a name of the weights of several models" in capsys.readouterr().err
    assert len(downloads) == 2  # nothing else was downloaded


def test_weights_by_name_match_classes_by_name(downloads: list[str]) -> None:
    model = build_model("ssdlite320_mobilenet_v3_large", 4, reduced_tail=True)
    report = load_weights(model, LITE, classes=("dog", "unicorn", "person"))
    assert report.reordered and report.new_classes == ["unicorn"]
    names = (*SSDLite320_MobileNet_V3_Large_Weights.COCO_V1.meta["categories"],)
    gaps = tuple(f"unused {i}" if name == "N/A" else name for i, name in enumerate(names))[1:]
    whole = build_model("ssdlite320_mobilenet_v3_large", 91, reduced_tail=True)
    report = load_weights(whole, LITE, classes=gaps)  # COCO's ids have gaps, which each data set names differently
    assert report.new_classes == [] and not report.reordered


def test_offline_error_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fail(*_: object, **__: object) -> None:
        raise URLError("no network")

    monkeypatch.setattr(SSDLite320_MobileNet_V3_Large_Weights, "get_state_dict", fail)
    message = rf"torchvision could not download {LITE} from https://\S+: .*no network.*pass its path instead"
    with pytest.raises(DataError, match=message) as error:
        ssd.load(LITE)
    assert "\n" not in str(error.value)
    with pytest.raises(SystemExit, match=message):
        convert([LITE, str(tmp_path / "w.pth"), "--to", "ssd"])


@pytest.mark.parametrize("suffix", (".safetensors", ".pth"))
def test_converted_file_keeps_classes_and_options(
    suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if suffix == ".safetensors":
        pytest.importorskip("safetensors")
    model = build_model("ssd_tiny", 3, image_size=64, width=4, nms_iou_threshold=0.3)
    saved = {"build_args": model.build_args, "classes": ["a", "b"], "thresholds": {"a": 0.25}, "apply_exif": False}
    torch.save({"model": model.state_dict(), **saved}, tmp_path / "in.pth")
    file = tmp_path / f"out{suffix}"
    convert([str(tmp_path / "in.pth"), str(file), "--to", "ssd"])
    detector = ssd.load(file, "cpu")
    assert detector.classes == ("a", "b") and detector.thresholds == {"a": 0.25} and not detector.apply_exif
    assert detector.model.preset == model.preset
    state = detector.model.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    if suffix == ".safetensors":
        convert([str(file), str(tmp_path / "back.safetensors"), "--to", "ssd"])
        assert ssd.load(tmp_path / "back.safetensors", "cpu").classes == ("a", "b")


def test_convert_without_safetensors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({}, tmp_path / "in.pth")
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(SystemExit):
        convert([str(tmp_path / "in.pth"), str(tmp_path / "out.safetensors"), "--to", "ssd"])
    assert "pip install safetensors" in capsys.readouterr().err
