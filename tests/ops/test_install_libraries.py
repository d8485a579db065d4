"""`ssd_ops.install` replaces the NMS functions of other libraries, imported before or after; `uninstall` restores them."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import ssd_ops
from tests.ops.boxes import random_boxes

torchvision = pytest.importorskip("torchvision")

# Stand-ins with the call conventions of the libraries: a static method, and a helper that calls torchvision.ops.boxes.
ULTRALYTICS = """
import torch
class TorchNMS:
    @staticmethod
    def nms(boxes, scores, iou_threshold):
        raise AssertionError("the own NMS ran")
"""
DETECTRON2 = """
from torchvision.ops import boxes as box_ops
from torchvision.ops import nms
def batched_nms(boxes, scores, idxs, iou_threshold):
    return box_ops.batched_nms(boxes.float(), scores, idxs, iou_threshold)
"""


@pytest.fixture
def libraries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name, code in (("ultralytics/utils/nms", ULTRALYTICS), ("detectron2/layers/nms", DETECTRON2)):
        file = tmp_path / f"{name}.py"
        file.parent.mkdir(parents=True)
        for folder in (file.parent, file.parent.parent):
            (folder / "__init__.py").write_text("")
        file.write_text(code)
    saved = {
        name: module for name, module in sys.modules.items() if name.partition(".")[0] in ("ultralytics", "detectron2")
    }
    for name in saved:
        del sys.modules[name]
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    ssd_ops.uninstall()
    for name in [name for name in sys.modules if name.partition(".")[0] in ("ultralytics", "detectron2")]:
        del sys.modules[name]
    sys.modules.update(saved)


@pytest.mark.usefixtures("libraries")
@pytest.mark.parametrize("before", (True, False), ids=("imported before", "imported after"))
def test_helpers_run_these_ops(before: bool) -> None:
    boxes, scores, idxs = random_boxes(40, seed=1), torch.rand(40), torch.arange(40) % 3
    if before:
        importlib.import_module("ultralytics.utils.nms")
        importlib.import_module("detectron2.layers.nms")
    finders = list(sys.meta_path)
    ssd_ops.install()
    helper = importlib.import_module("ultralytics.utils.nms").TorchNMS
    detectron2 = importlib.import_module("detectron2.layers.nms")
    assert "ultralytics.utils.nms.TorchNMS.nms" in ssd_ops.install()
    assert torch.equal(helper.nms(boxes, scores, 0.4), ssd_ops.nms(boxes, scores, 0.4))
    assert torch.equal(helper().nms(boxes, scores, 0.4), ssd_ops.nms(boxes, scores, 0.4))
    assert detectron2.nms is ssd_ops.nms and detectron2.box_ops.batched_nms is ssd_ops.batched_nms
    kept = detectron2.batched_nms(boxes.half(), scores, idxs, 0.4)
    assert torch.equal(kept, ssd_ops.batched_nms(boxes.half(), scores, idxs, 0.4))
    ssd_ops.uninstall()
    with pytest.raises(AssertionError, match="the own NMS ran"):
        helper.nms(boxes, scores, 0.4)
    assert sys.meta_path == finders and detectron2.box_ops.batched_nms is not ssd_ops.batched_nms
    assert not before or detectron2.nms is torchvision.ops.nms


@pytest.mark.usefixtures("libraries")
def test_another_version_without_the_helper_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "ultralytics/utils/nms.py").write_text("class Other: pass\n")
    ssd_ops.install()
    importlib.import_module("ultralytics.utils.nms")
    assert not any(name.startswith("ultralytics") for name in ssd_ops.install())


@pytest.mark.parametrize("columns", (5, 6))
def test_supervision_results_are_equal(columns: int) -> None:
    supervision = pytest.importorskip("supervision")
    boxes = random_boxes(200, seed=2).numpy()
    rng = np.random.default_rng(2)
    rows = np.column_stack((boxes, rng.permutation(200) / 200, rng.integers(0, 3, 200)))[:, :columns].astype(np.float32)
    detections = supervision.Detections(boxes, confidence=rows[:, 4], class_id=rng.integers(0, 3, 200))

    def results() -> list[np.ndarray]:
        nms, metric = supervision.box_non_max_suppression, supervision.OverlapMetric
        masks = [nms(rows, 0.4), nms(rows, iou_threshold=0.4, overlap_metric=metric.IOU), nms(rows, 0.4, metric.IOS)]
        ties = np.array([[0, 0, 4, 4, 0.9]] * 3, dtype=np.float32)
        return [*masks, nms(ties), nms(rows[:0], 0.4), detections.with_nms(0.3).xyxy]

    before = results()
    names = ssd_ops.install()
    try:
        after = results()
        with pytest.raises(ValueError, match="iou_threshold"):
            supervision.box_non_max_suppression(rows, 1.5)
    finally:
        ssd_ops.uninstall()
    assert "supervision.detection.utils.iou_and_nms.box_non_max_suppression" in names
    for found, expected in zip(after, before, strict=True):
        assert found.dtype == expected.dtype and np.array_equal(found, expected)
    assert supervision.box_non_max_suppression.__module__.startswith("supervision")
