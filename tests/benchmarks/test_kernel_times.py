"""Tests the times of kernels and the comparison of unmeasured ones, with a trace and reports that need no GPU."""

from __future__ import annotations

import importlib
import json
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from benchmarks import gpu_check

FOLDER = Path(__file__).resolve().parent.parent.parent / "benchmarks"


@pytest.fixture
def script(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A program of benchmarks/, imported like in its process."""
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module(f"benchmarks.{request.param}")


def kernel(name: str, start: float, time: float) -> dict[str, Any]:
    return {"cat": "kernel", "name": f"void ssd_ops::(anonymous namespace)::{name}(int*)", "ts": start, "dur": time}


@pytest.mark.parametrize("script", ["kernel_times"], indirect=True)
def test_kernels_of_a_trace(script: ModuleType) -> None:
    calls = [
        [kernel("a_kernel<(bool)1, float>", 10.0, 4.0), kernel("b_kernel", 13.0, 2.0)],
        [kernel("b_kernel", 103.5, 2.5), kernel("a_kernel<(bool)1, float>", 100.0, 6.0)],
    ]
    events = [{"cat": "cuda_runtime", "name": "cudaLaunchKernel", "ts": 1, "dur": 1}, *calls[1], *calls[0]]
    assert script.kernels_of(events, 2) == [
        script.KernelTime("a_kernel<1, float>", 0.0, 5.0),
        script.KernelTime("b_kernel", 3.25, 2.25),
    ]
    with pytest.raises(RuntimeError, match="3 kernels in 2 calls, which differ from call to call"):
        script.kernels_of(events[:-1], 2)
    with pytest.raises(RuntimeError, match="no kernel"):
        script.kernels_of(events[:1], 2)


@pytest.mark.parametrize("script", ["unmeasured_kernels"], indirect=True)
def test_kernels_are_measured_in_turn(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in script.SCRIPTS:
        (tmp_path / f"{name}.py").write_text(
            "import json, os, sys\n"
            "report = {'machine': {'gpu': 'x'}, 'rows': [os.environ['SSD_OPS_UNMEASURED_KERNELS'], *sys.argv[1:3]]}\n"
            "open(sys.argv[-1], 'w').write(json.dumps(report))\n"
        )
    monkeypatch.setattr(script, "FOLDER", tmp_path)
    path = tmp_path / "report.json"
    monkeypatch.setattr(sys, "argv", ["x", "--rounds", "2", "--filter", "nms", "--json", str(path)])
    script.main()
    report = json.loads(path.read_text())
    scripts = ["bench_ops_gpu"] * 4 + ["kernel_times"] * 2
    assert [run["script"] for run in report["runs"]] == scripts
    assert [run["rows"] for run in report["runs"]] == [["0", "--filter", "nms"], ["1", "--filter", "nms"]] * 3
    assert [run["unmeasured"] for run in report["runs"]] == [False, True] * 3
    (tmp_path / "kernel_times.py").write_text("raise SystemExit('planted')")
    with pytest.raises(SystemExit, match="2 not measured: kernel_times, SSD_OPS_UNMEASURED_KERNELS=0: RuntimeError"):
        script.main()
    assert len(json.loads(path.read_text())["runs"]) == 4


def test_unmeasured_stages_switch_them_on(tmp_path: Path) -> None:
    stages = {stage.name: stage for stage in gpu_check.all_stages(tmp_path)}
    for name in ("unmeasured_tests", "unmeasured_memcheck"):
        assert stages[name].environment["SSD_OPS_UNMEASURED_KERNELS"] == "1"
    assert not any("SSD_OPS_UNMEASURED_KERNELS" in stages[name].environment for name in ("tests", "memcheck"))
    command = re.findall(r"--stages build,(unmeasured\S+)", gpu_check.__doc__ or "")
    assert {*command[0].split(",")} == {name for name in stages if name.startswith("unmeasured")}
    assert all((FOLDER.parent / file).is_file() for file in gpu_check.UNMEASURED_TESTS)
