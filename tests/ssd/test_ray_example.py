"""Tests that the example of Ray Data on a local Ray gives the results of one detector."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image

import ssd

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture(scope="module")
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("ray_detect", ROOT / "docs" / "examples" / "ray_detect.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["ray_detect"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint and images, one of which cannot be read."""
    folder = tmp_path_factory.mktemp("ray")
    torch.manual_seed(0)
    model = ssd.build_model("ssd_tiny", 3, image_size=64, width=4, levels=2)
    state = {"build_args": model.build_args, "classes": ["disc", "star"], "model": model.state_dict()}
    torch.save(state, folder / "last.pt")
    generator = np.random.default_rng(0)
    for number in range(7):
        Image.fromarray(generator.integers(0, 256, (40, 60, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    (folder / "broken.png").write_bytes(b"no image")
    return folder


def expected(folder: Path) -> dict[str, str]:
    results = ssd.load(folder / "last.pt", "cpu").stream(sorted(folder.glob("*.png")), score_threshold=0.33)
    return {str(result.file): "" if result.error else result.to_json() for result in results}


def test_class_for_map_batches_detects_and_names_unreadable_files(example: ModuleType, folder: Path) -> None:
    files = np.array([str(path) for path in sorted(folder.glob("*.png"))], dtype=object)
    rows = example.DetectBatches(str(folder / "last.pt"), score_threshold=0.33)({"file": files})
    assert dict(zip(rows["file"], rows["result"], strict=True)) == expected(folder)
    assert [bool(error) for error in rows["error"]] == [file.endswith("broken.png") for file in files]


@pytest.fixture
def local_ray(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    ray = pytest.importorskip("ray")
    pytest.importorskip("pyarrow")
    path = os.pathsep.join([str(ROOT), str(ROOT / "docs" / "examples"), os.environ.get("PYTHONPATH", "")])
    monkeypatch.setenv("PYTHONPATH", path)  # of the workers
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.mark.usefixtures("local_ray")
def test_local_ray_gives_the_results_of_one_detector(example: ModuleType, folder: Path) -> None:
    files = [str(path) for path in sorted(folder.glob("*.png"))]
    rows = example.detect(str(folder / "last.pt"), files, 1, score_threshold=0.33).take_all()
    found = {row["file"]: row["result"] for row in rows}
    whole = expected(folder)
    assert found.keys() == whole.keys() and [row["error"] for row in rows].count("") == 7
    for file, text in whole.items():
        assert (json.loads(text)["detections"] if text else None) == (
            json.loads(found[file])["detections"] if found[file] else None
        )
