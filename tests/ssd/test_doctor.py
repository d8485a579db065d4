"""`ssd doctor`: facts, problems with remedies, exit code; on machines that are only described."""

from __future__ import annotations

import json
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest

import ssd_ops
from ssd import diagnosis
from ssd.diagnosis import kernels, machine, programs
from ssd.diagnosis.architectures import coverage
from ssd.programs import doctor


def info(**compiled: Any) -> dict[str, Any]:
    """A build as `ssd_ops.build_info` describes it."""
    base = {
        "compiler": "GNU 12",
        "torch_built_with": "2.14",
        "cuda": None,
        "cuda_architectures": [],
        "cuda_note": "no nvcc.",
    }
    base |= {"isa_compiled": ["baseline"], "isa_chosen": "baseline"}
    return {"backend": "compiled", "reference_because": None, "compiled": base | compiled}


@pytest.mark.parametrize(
    ("capability", "architectures", "expected"),
    [
        ((9, 0), ["80-real", "90-real"], "machine code"),
        ((8, 6), ["80-real"], "machine code"),  # a higher minor version
        ((8, 0), ["86-real"], "none"),
        ((10, 0), ["90-real"], "none"),
        ((10, 0), ["90-real", "90-virtual"], "PTX"),
        ((12, 0), ["75-virtual"], "PTX"),
        ((7, 0), ["75-virtual"], "none"),
        ((9, 0), ["90"], "machine code"),
        ((9, 0), ["90a-real"], "machine code"),
        ((10, 0), ["90a-virtual"], "none"),
        ((10, 3), ["100f-real"], "machine code"),
        ((9, 0), [], "none"),
    ],
)
def test_gpu_is_covered_by_compiled_architectures(
    capability: tuple[int, int], architectures: list[str], expected: str
) -> None:
    assert coverage(capability, architectures) == expected


def test_doctor_report_agrees_with_build_info() -> None:
    report = diagnosis.diagnose()
    parsed = json.loads(json.dumps(report.as_dict()))
    assert parsed["kernels"]["backend"] == ssd_ops.build_info()["backend"]
    assert parsed["programs"]["torch"] and parsed["machine"]["cores"] >= 1
    assert parsed["well"] == (not report.problems)
    assert "kernels" in str(report)


def test_doctor_exit_code_and_json_report_problems(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hint, problem = (diagnosis.findings.Finding(text, "do it", text == "broken") for text in ("slow", "broken"))
    facts = diagnosis.diagnose().facts
    for findings, code in (((hint,), 0), ((hint, problem), 1)):
        monkeypatch.setattr(diagnosis, "diagnose", lambda findings=findings: diagnosis.Report(facts, findings))
        with pytest.raises(SystemExit) as end:
            doctor.main(["--json"])
        assert end.value.code == code
        assert json.loads(capsys.readouterr().out)["well"] == (code == 0)
    assert "problems:\n  - broken\n    -> do it" in str(diagnosis.Report(facts, (problem,)))


def test_doctor_reports_missing_kernels_with_reason_of_build(monkeypatch: pytest.MonkeyPatch) -> None:
    reason = {"backend": "reference", "reference_because": "No C++ compiler was found. Install one.", "compiled": None}
    monkeypatch.setattr(ssd_ops, "build_info", lambda: reason)
    section = kernels.examine([])
    assert "No C++ compiler was found" in section.findings[0].text
    assert "pip install" in section.findings[0].remedy
    assert section.findings[0].is_problem


def test_doctor_reports_op_with_wrong_result_or_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ssd_ops, "nms", lambda boxes, *_: boxes[:1, 0].long())
    assert "returns [0] instead of [1, 2]" in kernels.examine([]).findings[-1].text
    monkeypatch.setattr(ssd_ops, "nms", lambda *_: 1 / 0)
    assert "ssd_ops.nms fails on cpu: ZeroDivisionError" in kernels.examine([]).findings[-1].text


@pytest.mark.parametrize(
    ("compiled", "runs", "text"),
    [
        (info(), "none", "have no CUDA kernels, so Some GPU runs on the reference. no nvcc."),
        (
            info(cuda="13.0", cuda_architectures=["75-real"]),
            "none",
            "are for 75-real, none of which Some GPU (9.0) runs",
        ),
        (info(cuda="13.0", cuda_architectures=["75-virtual"]), "PTX", "compiles the kernels for Some GPU (9.0) when"),
        (info(cuda="13.0", cuda_architectures=["90-real"]), "machine code", None),
    ],
)
def test_doctor_compares_gpu_with_compiled_architectures(
    monkeypatch: pytest.MonkeyPatch, compiled: dict[str, Any], runs: str, text: str | None
) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Some GPU")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    monkeypatch.setattr(ssd_ops, "build_info", lambda: compiled)
    monkeypatch.setattr(kernels, "_run_nms", lambda *_: [1, 2])
    section = kernels.examine([])
    assert section.facts["gpus"] == [{"name": "Some GPU", "capability": "9.0", "runs": runs, "works": True}]
    assert [text in finding.text for finding in section.findings if text] == ([True] if text else [])


def test_doctor_reports_gpu_that_torch_does_not_see(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    found = kernels.examine([{"name": "Some GPU", "capability": "9.0", "memory": "1 MiB"}]).findings
    assert any("torch does not see the GPU (Some GPU)" in finding.text for finding in found)


def test_doctor_reports_small_shared_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    usage = namedtuple("usage", "total used free")(64 << 20, 0, 64 << 20)
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda _: usage)
    section = machine.examine(tmp_path)
    assert section.facts["shared_memory_mib"] == {"total": 64, "free": 64}
    assert "64 MiB free of 64" in section.findings[0].text and "--shm-size" in section.findings[0].remedy


def test_driver_gpus_are_read_from_nvidia_smi(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "find", lambda *_: ["nvidia-smi"])
    monkeypatch.setattr(machine, "output", lambda _: "580.1, NVIDIA H100, 9.0, 81559 MiB\n")
    gpu = {"name": "NVIDIA H100", "capability": "9.0", "memory": "81559 MiB"}
    assert machine.gpus_of_driver() == ("580.1", [gpu])
    monkeypatch.setattr(machine, "output", lambda _: "")
    assert machine.gpus_of_driver() == (None, [])


def test_doctor_reports_other_packages_named_ssd(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "ssd.py").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(programs, "version", lambda name, module=None: "1.0.0")
    texts = [finding.text for finding in programs.examine().findings]
    assert any("another project, ssd 1.0.0, is installed" in text for text in texts)
    assert any("ssd.py hides the package ssd" in text for text in texts)
