"""Tests the import of ssd_ops with and without its compiled library."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

import ssd_ops

Run = Callable[..., subprocess.CompletedProcess[str]]
USE = """
import torch, ssd_ops
print(ssd_ops.build_info()["backend"], len(ssd_ops.box_iou(torch.rand(2, 4), torch.rand(3, 4))))
"""


def one_warning(result: subprocess.CompletedProcess[str]) -> str:
    """Checks that the import warned once and that the reference ran; returns the warning."""
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == ["reference", "2"]
    warnings = [line for line in result.stderr.splitlines() if "Warning" in line]
    assert len(warnings) == 1 and warnings[0].startswith(
        "<string>:2: RuntimeWarning: ssd_ops runs on its PyTorch reference"
    )
    return warnings[0]


def test_missing_library_warns_once_and_runs_reference(source_tree: Path, run_torch: Run) -> None:
    assert "It has not been built. pip install -e ." in one_warning(run_torch(source_tree, "-c", USE))


def test_missing_library_warning_quotes_build_error(source_tree: Path, run_torch: Run) -> None:
    (source_tree / "ssd_ops/_not_built.txt").write_text("No C++ compiler was found.\n")
    assert one_warning(run_torch(source_tree, "-c", USE)).endswith("No C++ compiler was found.")


def test_unloadable_library_warning_quotes_loader_error(source_tree: Path, run_torch: Run) -> None:
    (source_tree / "ssd_ops/libssd_ops.so").write_text("not a library")
    warning = one_warning(run_torch(source_tree, "-c", USE))
    assert "libssd_ops.so does not load under torch" in warning and "file too short" in warning


def test_library_of_other_sources_is_not_loaded(source_tree: Path, run_torch: Run) -> None:
    (source_tree / "ssd_ops/libssd_ops.so").touch()
    (source_tree / "ssd_ops/_build_info.json").write_text('{"schemas_sha256": "of another day"}')
    assert "was built from other sources" in one_warning(run_torch(source_tree, "-c", USE))


def test_ssd_ops_require_raises_without_library(source_tree: Path, run_torch: Run) -> None:
    result = run_torch(source_tree, "-c", USE, SSD_OPS_REQUIRE="1")
    assert result.returncode != 0
    assert "ImportError: SSD_OPS_REQUIRE=1 is set, and ssd_ops has no compiled library: It has not" in result.stderr


def test_backend_reference_does_not_warn(source_tree: Path, run_torch: Run) -> None:
    result = run_torch(source_tree, "-c", USE, SSD_OPS_BACKEND="reference")
    assert result.stdout.split() == ["reference", "2"] and "Warning" not in result.stderr


def test_unknown_backend_raises(source_tree: Path, run_torch: Run) -> None:
    result = run_torch(source_tree, "-c", USE, SSD_OPS_BACKEND="cuda")
    assert "ValueError: SSD_OPS_BACKEND must be auto or reference, got 'cuda'" in result.stderr


def test_importing_ssd_ops_does_not_import_detector_dependencies(root: Path, run_python: Run) -> None:
    others = {"torchvision", "matplotlib", "PIL", "pycocotools", "ssd", "tests"}
    assert run_python(root, "-c", f"import sys, ssd_ops; print({others} & set(sys.modules))").stdout.strip() == "set()"


def test_build_info_keys() -> None:
    info = ssd_ops.build_info()
    assert set(info) == {"backend", "reference_because", "torch", "python", "compiled"}
    assert (info["backend"] == "compiled") == (info["reference_because"] is None)


@pytest.mark.skipif(ssd_ops.build_info()["compiled"] is None, reason="no compiled library")
def test_build_info_of_compiled_library(root: Path, run_torch: Run) -> None:
    compiled = ssd_ops.build_info()["compiled"]
    assert compiled["torch_at_least"] == "2.11" and compiled["isa_compiled"][0] == "baseline"
    assert compiled["isa_chosen"] in compiled["isa_compiled"]
    assert bool(compiled["cuda"]) == bool(compiled["cuda_architectures"]) == (compiled["cuda_note"] is None)
    code = "import ssd_ops; print(ssd_ops.build_info()['compiled']['isa_chosen'])"
    assert run_torch(root, "-c", code, SSD_OPS_ISA="baseline").stdout.strip() == "baseline"
    code_of_reference = f"{code}; print(ssd_ops.build_info()['compiled']['isa_compiled'][0])"
    assert run_torch(root, "-c", code_of_reference, SSD_OPS_BACKEND="reference").stdout.split() == ["None", "baseline"]
    failed = run_torch(root, "-c", code, SSD_OPS_ISA="sse9").stderr
    assert 'SSD_OPS_ISA must be baseline, avx2 or avx512, got "sse9"' in failed
