"""Tests what trainings and predictions import: nothing that takes long and is not used. No time is asserted.

Trainings are ended after their first step, on a GPU after the fourth, which is captured as a CUDA graph.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ssd.models import build_model
from ssd.models.layers import mobilenet_v2_features
from tests.ssd.small_folders import save_image, voc_object, write_voc

ROOT = Path(__file__).resolve().parent.parent.parent
UNUSED = "torch._dynamo torch._inductor torch.fx.experimental.symbolic_shapes torch.onnx sympy torchvision matplotlib"
UNUSED += " scipy pandas onnx timm"
BEGIN = """
import json, sys
import torch
of_torch = set(sys.modules)
"""
PREDICT = """
import ssd
ssd.load(sys.argv[2], device="cpu").predict(sys.argv[3])
"""
TRAIN = """
from ssd import train
from ssd.engine import loop

class Done(BaseException):
    pass

def first_step(config, state, batch):
    step(config, state, batch)
    if state.step == (4 if state.model.priors.is_cuda else 1):
        raise Done

step, loop.train_step = loop.train_step, first_step
try:
    train.main(sys.argv[2:])
except Done:
    pass
"""
END = """
print(json.dumps([name for name in sys.argv[1].split() if name in sys.modules and name not in of_torch]))
"""


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
@pytest.mark.parametrize(
    "flags",
    [
        "--model ssd_tiny --amp",
        "--model ssd_tiny --opt sgd --device-augmentation --ema-decay 0 --clip-grad-norm 0",
        "--model ssdlite320_mobilenet_v2 --weights-backbone weights.pth --channels-last --fit-priors --image-size 96",
        pytest.param("--model ssd300_vgg16 --freeze backbone", marks=pytest.mark.slow),
    ],
)
def test_first_step_needs_no_module_that_takes_long(tmp_path: Path, flags: str, device: str) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("there is no GPU")
    objects = [voc_object(), voc_object("dog", (5, 5, 50, 35))]
    write_voc(tmp_path / "data", {f"{i}": objects for i in range(8)})
    write_voc(tmp_path / "data", {f"val{i}": objects for i in range(2)}, "val")
    features = mobilenet_v2_features().state_dict()
    torch.save({f"features.{name}": value for name, value in features.items()}, tmp_path / "weights.pth")
    fixed = ["--data-path", "data", "--batch-size", "2", "--workers", "0", "--device", device, "--pictures", "0"]
    assert imported_by(tmp_path, TRAIN, *fixed, "--tensorboard", "off", *flags.split()) == []


@pytest.mark.parametrize("name", ["ssd_tiny", "ssdlite320_mobilenet_v2"])
def test_prediction_needs_no_module_that_takes_long(tmp_path: Path, name: str) -> None:
    model = build_model(name, 3, image_size=96)
    torch.save(
        {"model": model.state_dict(), "build_args": model.build_args, "classes": ("cat", "dog")}, tmp_path / "a.pt"
    )
    save_image(tmp_path / "a.jpg")
    assert imported_by(tmp_path, PREDICT, "a.pt", "a.jpg") == []


def imported_by(folder: Path, code: str, *arguments: str) -> list[str]:
    """Runs code in a new process; returns which of UNUSED it imported, beyond what torch itself imports."""
    command = [sys.executable, "-c", BEGIN + code + END, UNUSED, *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    found: list[str] = json.loads(done.stdout.splitlines()[-1])
    return found
