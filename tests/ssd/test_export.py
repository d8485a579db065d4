"""Tests that exported models equal the model."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

import ssd_ops
from ssd.common.errors import DataError
from ssd.exporters.check import compare
from ssd.exporters.network import DetectorNetwork, describe
from ssd.exporters.onnx_file import export_onnx
from ssd.exporters.programs import export_pt2
from ssd.exporters.quantize import quantize
from ssd.exporters.running import load_program, network_inputs
from ssd.inference.detector import Detector
from ssd.models import build_model
from ssd.programs.export import TOLERANCE, main

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def detector() -> Detector:
    torch.manual_seed(0)
    model = build_model("ssd_tiny", 3, image_size=64, width=4, levels=2).eval()
    return Detector(model, ("disc", "star"), thresholds={"disc": 0.15})


def test_pt2_includes_post_processing(detector: Detector, tmp_path: Path) -> None:
    export_pt2(detector, tmp_path / "model.pt2")
    files = {"classes.json": ""}
    program = torch.export.load(tmp_path / "model.pt2", extra_files=files)
    assert json.loads(files["classes.json"]) == describe(detector)
    for count in (1, 3):  # neither is the number of images that it was traced with
        images = torch.rand(count, 3, 64, 64)
        model = detector.model
        expected = model.detect(*model.forward_raw(model.normalize(images)))
        assert expected.counts.min() > 0
        for ours, theirs in zip(expected, program.module()(images), strict=True):
            torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-6)
    for images in (torch.zeros(1, 3, 64, 64, dtype=torch.uint8), torch.zeros(1, 3, 64, 64, dtype=torch.float16)):
        with pytest.raises(RuntimeError, match="dtype mismatch! Expected: Float"):
            program.module()(images)


def test_onnx_outputs_boxes_and_scores(detector: Detector, tmp_path: Path) -> None:
    pytest.importorskip("onnx", reason="onnx is not installed")
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    export_onnx(detector, tmp_path / "model.onnx", exporter="torchscript", nms=False)
    session = runtime.InferenceSession(str(tmp_path / "model.onnx"))
    about = session.get_modelmeta().custom_metadata_map
    assert json.loads(about["classes"]) == ["disc", "star"] and about["image_size"] == "64"
    assert json.loads(about["nms_iou_threshold"]) == 0.45 and json.loads(about["max_detections"]) == 200
    assert about["apply_exif"] == "true" and "antialiased" in about["resize"]
    assert json.loads(about["show_from"]) == {"disc": 0.15, "star": 0.4}
    images = torch.rand(3, 3, 64, 64)
    boxes, scores = (torch.from_numpy(a) for a in session.run(None, {"images": images.numpy()}))
    model = detector.model
    with torch.inference_mode():
        loc, logits = model.forward_raw(model.normalize(images))
    expected = ssd_ops.decode_boxes(loc, model.priors, variances=model.preset.variances).clamp(0, 1)
    torch.testing.assert_close(boxes, expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(scores, logits.softmax(-1), rtol=0, atol=1e-5)


@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
def test_onnx_includes_post_processing(detector: Detector, exporter: str, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    if exporter == "dynamo":
        pytest.importorskip("onnxscript")
    path = tmp_path / "model.onnx"
    export_onnx(detector, path, exporter=exporter)
    assert {node.domain for node in onnx.load(str(path)).graph.node} == {""}
    images = list(torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(1)))
    result = compare(detector, load_program(path, "onnx"), images, TOLERANCE)
    assert result.images == 4 and result.detections > 0 and result.difference <= TOLERANCE


def test_int8_keeps_metadata_and_takes_any_batch(detector: Detector, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    export_onnx(detector, tmp_path / "model.onnx", exporter="torchscript")
    images = list(torch.rand(4, 3, 64, 64))
    assert quantize(tmp_path / "model.onnx", tmp_path / "int8.onnx", images) == 4
    assert load_program(tmp_path / "int8.onnx", "onnx")(torch.stack(images)).boxes.shape == (4, 200, 4)
    import onnx

    properties = {entry.key: entry.value for entry in onnx.load(str(tmp_path / "int8.onnx")).metadata_props}
    assert json.loads(properties["classes"]) == ["disc", "star"]


def test_export_check_detects_different_program(detector: Detector) -> None:
    def shifted(images: Tensor) -> ssd_ops.Detections:
        boxes, scores, labels, counts = DetectorNetwork(detector.model)(images)
        return ssd_ops.Detections(boxes + 0.01, scores, labels, counts)

    with torch.inference_mode():
        result = compare(detector, shifted, list(torch.rand(4, 3, 64, 64)), TOLERANCE)
    assert TOLERANCE < result.difference <= 0.011


def test_export_command_exports_a_run(detector: Detector, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = {"build_args": detector.model.build_args, "classes": ["disc", "star"]}
    torch.save({**checkpoint, "model": detector.model.state_dict()}, tmp_path / "best.pt")
    main([str(tmp_path), str(tmp_path / "new" / "model.pt2")])
    text = capsys.readouterr().out
    assert "images [B, 3, 64, 64]" in text and "in 8 drawn images; largest difference 0 " in text
    assert (tmp_path / "new" / "model.pt2").stat().st_size > 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere", "x.onnx"], "checkpoint nowhere does not exist"),
        ([".", "x.pb"], "output must end in .onnx or .pt2, got x.pb"),
        (["."], "give --to pt2, aoti or onnx, or an output file"),
        ([".", "x.onnx", "--int8"], "--int8 needs --calibration-data, since . does not record"),
        ([".", "x.onnx", "--tolerance", "nan"], "--tolerance must be a finite number of at least 0, got nan"),
        ([".", "x.pt2", "--no-nms"], "--int8, --no-nms and --exporter are for --to onnx"),
    ],
)
def test_export_argument_errors_do_not_import_torch(arguments: list[str], words: str) -> None:
    code = (
        "import sys; sys.modules['torch'] = None; from ssd.programs.export import TOLERANCE, main; main(sys.argv[1:])"
    )
    result = subprocess.run([sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 2 and words in result.stderr


def test_inputs_of_check_and_calibration_are_read_from_a_folder(tmp_path: Path) -> None:
    for name, level in (("a.png", 51), ("b.png", 255)):
        Image.new("RGB", (40, 20), (level, 0, 0)).save(tmp_path / name)
    inputs = list(network_inputs(tmp_path, 32, True, limit=8))
    assert [tuple(image.shape) for image in inputs] == [(3, 32, 32)] * 2
    torch.testing.assert_close(torch.stack([image[0].mean() for image in inputs]), torch.tensor([0.2, 1.0]))
    assert len(list(network_inputs(tmp_path, 32, True, limit=1))) == 1
    (tmp_path / "c.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"c\.png"):
        list(network_inputs(tmp_path, 32, True, limit=8))


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--images", "empty"], "folder empty contains no images or videos"),
        (["--eval-data", "empty"], "--eval-data empty has none of the known formats"),
        (["--int8", "--calibration-data", "empty"], "folder empty contains no images or videos"),
    ],
)
def test_images_and_data_are_opened_before_export(
    detector: Detector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: list[str], words: str
) -> None:
    pytest.importorskip("onnxruntime")
    state = {"build_args": detector.model.build_args, "classes": ["disc", "star"]}
    torch.save({**state, "model": detector.model.state_dict()}, tmp_path / "best.pt")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("ssd.programs.export_steps.write", lambda *_: pytest.fail("exported first"))
    with pytest.raises(SystemExit, match=words):
        main([".", "x.onnx", "--exporter", "torchscript", *flags])
