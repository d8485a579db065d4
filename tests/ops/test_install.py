"""`ssd_ops.install`: torchvision and its callers on these ops, and back."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import ssd_ops

torchvision = pytest.importorskip("torchvision")
from torchvision.ops import batched_nms as imported_before  # noqa: E402

from tests.ops.boxes import random_boxes  # noqa: E402
from tests.processes import run_python  # noqa: E402


@pytest.fixture
def installed() -> Iterator[None]:
    ssd_ops.install()
    yield
    ssd_ops.uninstall()


def crowded(count: int = 200) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    boxes = random_boxes(count, seed=3)
    return boxes, torch.rand(count, generator=generator), torch.randint(0, 5, (count,), generator=generator)


def test_installed_functions_equal_torchvision() -> None:
    boxes, scores, idxs = crowded()
    calls = {
        "nms": lambda ops: ops.nms(boxes, scores, 0.4),
        "batched_nms": lambda ops: ops.batched_nms(boxes, scores, idxs, 0.4),
        "box_iou": lambda ops: ops.box_iou(boxes[:9], boxes),
        "generalized_box_iou": lambda ops: ops.generalized_box_iou(boxes[:9], boxes),
        "dispatcher": lambda _: torch.ops.torchvision.nms(boxes, scores, 0.4),
        "imported before": lambda _: imported_before(boxes, scores, idxs, 0.4),
    }
    before = {name: call(torchvision.ops) for name, call in calls.items()}
    replaced = ssd_ops.install()
    try:
        assert replaced[0] == "torchvision::nms" and "torchvision.ops.batched_nms" in replaced
        assert torchvision.ops.nms is ssd_ops.nms and torchvision.ops.boxes.box_iou is ssd_ops.box_iou
        for name, call in calls.items():
            torch.testing.assert_close(call(torchvision.ops), before[name])
    finally:
        ssd_ops.uninstall()
    assert torchvision.ops.nms is not ssd_ops.nms
    assert torch.equal(torch.ops.torchvision.nms(boxes, scores, 0.4), before["nms"])


@pytest.mark.usefixtures("installed")
def test_installed_nms_runs_our_kernel() -> None:
    boxes = torch.tensor([[0.0, 0.0, 1.0, 1.0]] * 3)
    assert torch.ops.torchvision.nms(boxes, torch.zeros(3), 0.5).tolist() == [0]  # ties go to the lowest index
    with torch.profiler.profile() as profile:
        torch.ops.torchvision.nms(boxes, torch.zeros(3), 0.5)
    assert "ssd_ops::nms" in {event.key for event in profile.key_averages()}


@pytest.mark.cuda
@pytest.mark.usefixtures("installed")
def test_installed_nms_on_cuda_equals_cpu() -> None:
    boxes, scores, idxs = crowded()
    on_gpu = [tensor.cuda() for tensor in (boxes, scores, idxs)]
    kept = torch.ops.torchvision.nms(*on_gpu[:2], 0.4)
    assert kept.is_cuda and torch.equal(kept.cpu(), ssd_ops.nms(boxes, scores, 0.4))
    assert torch.equal(imported_before(*on_gpu, 0.4).cpu(), ssd_ops.batched_nms(boxes, scores, idxs, 0.4))


@pytest.mark.usefixtures("installed")
def test_install_twice_and_uninstall_once() -> None:
    assert ssd_ops.install() == ssd_ops.install()
    ssd_ops.uninstall()
    ssd_ops.uninstall()
    assert torchvision.ops.nms is not ssd_ops.nms


def test_installed_nms_in_a_torchvision_detector() -> None:
    torch.manual_seed(0)
    options = {
        "weights": None,
        "weights_backbone": None,
        "num_classes": 3,
        "score_thresh": 0.0,
        "detections_per_img": 20,
    }
    model = torchvision.models.detection.ssdlite320_mobilenet_v3_large(**options).eval()
    image = torch.rand(3, 64, 64)
    with torch.inference_mode():
        (before,) = model([image])
        ssd_ops.install()
        try:
            (after,) = model([image])
        finally:
            ssd_ops.uninstall()
    assert all(torch.equal(before[key], after[key]) for key in before)


@pytest.mark.usefixtures("installed")
def test_installed_nms_in_script_and_compile() -> None:
    boxes, scores, idxs = crowded(40)

    def detect(boxes: torch.Tensor, scores: torch.Tensor, idxs: torch.Tensor) -> torch.Tensor:
        return torchvision.ops.batched_nms(boxes, scores, idxs, 0.4)

    expected = ssd_ops.batched_nms(boxes, scores, idxs, 0.4)
    assert torch.equal(torch.jit.script(torchvision.ops.batched_nms)(boxes, scores, idxs, 0.4), expected)
    assert torch.equal(torch.compile(detect, backend="eager")(boxes, scores, idxs), expected)


@pytest.mark.usefixtures("installed")
def test_functions_of_torchvision_that_call_nms() -> None:
    boxes, scores, idxs = crowded()
    expected = ssd_ops.batched_nms(boxes, scores, idxs, 0.4)
    for name in ("_batched_nms_vanilla", "_batched_nms_coordinate_trick"):
        assert torch.equal(getattr(torchvision.ops.boxes, name)(boxes, scores, idxs, 0.4), expected)
    empty = torch.empty(0, dtype=torch.int64)
    assert torch.equal(torchvision.ops.batched_nms(empty, None, None, None), empty)


def test_install_runs_a_script_with_its_arguments(tmp_path: Path) -> None:
    (tmp_path / "helper.py").write_text("from torchvision.ops import nms\n")
    script = tmp_path / "script.py"
    script.write_text("import sys, helper, ssd_ops; print(__name__, sys.argv[1:], helper.nms is ssd_ops.nms)\n")
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    for command in ([str(script)], ["-m", "script"]):
        done = run_python("-m", "ssd_ops.install", *command, "--flag", folder=tmp_path, environment=environment)
        assert done.stdout == "__main__ ['--flag'] True\n", done.stderr
    done = run_python("-m", "ssd_ops.install", folder=tmp_path, environment=environment)
    assert done.returncode == 1 and "usage: python -m ssd_ops.install SCRIPT.py" in done.stderr


def test_install_where_torchvision_cannot_load_its_extension(tmp_path: Path) -> None:
    """A stand-in fails at its import as torchvision does without its extension."""
    package = tmp_path / "torchvision"
    package.mkdir()
    fakes = (
        f"@torch.library.register_fake('torchvision::{name}')\n"
        "def fake(dets, scores, iou_threshold): return dets.new_empty(0, dtype=torch.long)\n"
        for name in ("nms", "qnms")
    )
    (package / "__init__.py").write_text(f"import torch\nfrom torchvision import broken\n{''.join(fakes)}")
    (package / "broken.py").write_text("")
    (package / "ops").mkdir()
    (package / "ops" / "__init__.py").write_text(
        "from torchvision.ops import boxes\nfrom torchvision.ops.boxes import nms\n"
    )
    (package / "ops" / "boxes.py").write_text(
        "def nms(boxes, scores, iou_threshold): raise RuntimeError('no extension')\n"
    )
    code = (
        "import torch, ssd_ops; print(ssd_ops.install()); import torchvision\n"
        "arguments = torch.tensor([[0.0, 0, 1, 1]] * 2), torch.ones(2), 0.5\n"
        "print(torchvision.ops.nms(*arguments).tolist(), torch.ops.torchvision.nms(*arguments).tolist())"
    )
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{Path(__file__).parents[2]}"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.stdout == "['torchvision::nms', 'torchvision.ops.nms']\n[0] [0]\n", done.stderr
