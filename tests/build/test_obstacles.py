"""Tests that every obstacle to a build raises one paragraph with its cause and a fix."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import build_plan
import pytest
from probe import BuildProblem, NoCompiler

Program = Callable[[str, str], Path]
Machine = Callable[..., dict[str, str]]
WORKING_NVCC = """case "$1" in
  --version) echo "Cuda compilation tools, release 13.0, V13.0.88";;
  --list-gpu-arch) printf 'compute_80\\ncompute_90\\n';;
esac"""


@pytest.fixture
def machine(
    tmp_path: Path, program: Program, torch_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> Machine:
    """Returns a function that sets up a fake machine: by default a compiler, torch for CUDA 13.0 and nvcc 13.0."""

    def make(cxx: str | None = "exit 0", nvcc: str | None = WORKING_NVCC, gpu: str | None = None, **torch: object):
        for name, code in (("c++", cxx), ("nvcc", nvcc), ("nvidia-smi", gpu and f"echo {gpu}")):
            if code is not None:
                program(name, code)
        # The last place where nvcc is searched, /usr/local/cuda, may exist on the real machine.
        real_which = shutil.which
        monkeypatch.setattr(
            shutil, "which", lambda name, path=None: None if name[:5] == "/usr/" else real_which(name, path=path)
        )
        found = build_plan.read_torch(torch_folder(**torch))
        monkeypatch.setattr(build_plan, "find_torch", lambda env: found)
        return {"PATH": str(tmp_path / "bin")}

    return make


def problem_of(env: dict[str, str]) -> str:
    with pytest.raises(BuildProblem) as caught:
        build_plan.make_plan(env)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_plan_of_complete_machine(machine: Machine) -> None:
    plan = build_plan.make_plan(machine())
    assert plan.architectures == ("80-virtual",) and plan.cuda_note == ""
    assert "TORCH_CUDA_ARCH_LIST=" in plan.architecture_note
    assert plan.definitions()["SSD_OPS_WITH_CUDA"] == "ON"
    assert plan.definitions()["CMAKE_CUDA_COMPILER"] == plan.nvcc


def test_missing_compiler_raises(machine: Machine) -> None:
    with pytest.raises(NoCompiler, match=r"No C\+\+ compiler was found.*apt install g\+\+"):
        build_plan.make_plan(machine(cxx=None))


def test_missing_compiler_of_cxx_variable_raises(machine: Machine) -> None:
    assert "CXX=g++-99 is set" in problem_of(machine() | {"CXX": "g++-99"})
    assert "CXX=sccache c++ is set" in problem_of(machine() | {"CXX": "sccache c++"})


def test_compiler_without_standard_headers_raises(machine: Machine) -> None:
    text = problem_of(machine(cxx="echo 'optional: No such file' >&2; exit 1"))
    assert "cannot compile a C++20 file" in text and "optional: No such file" in text and "apt install g++" in text


def test_missing_torch_raises(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    env = machine()
    monkeypatch.setattr(build_plan, "find_torch", lambda env: None)
    assert "torch is not installed" in problem_of(env)


def test_old_torch_raises(machine: Machine) -> None:
    assert "torch 2.9.1 in" in (text := problem_of(machine(version="2.9.1"))) and "pip install --upgrade" in text


def test_torch_without_headers_raises(machine: Machine) -> None:
    text = problem_of(machine(headers=False))
    assert "library.h is missing" in text and "pip install --force-reinstall torch" in text


@pytest.mark.parametrize(
    ("options", "cause", "fix"),
    [
        ({"version": "2.15.0+cpu", "cuda": None}, "is a build without CUDA", "Install a CUDA build of torch"),
        ({"nvcc": None}, "no nvcc was found", "Install the CUDA 13 toolkit"),
        ({"cuda": "12.8"}, "the major versions must be equal", "Point CUDA_HOME at a CUDA 12 toolkit"),
        ({"nvcc": "echo 13"}, "does not print a version of nvcc", "Point CUDA_HOME at a complete CUDA toolkit"),
        (
            {"nvcc": f"{WORKING_NVCC}\necho 'cuda_runtime.h: No such file' >&2\n[ $# = 1 ]"},
            "cuda_runtime.h: No such file",
            "install cuda-cudart-dev",
        ),
    ],
)
def test_missing_cuda_is_noted_and_raises_only_if_required(
    machine: Machine, options: dict[str, object], cause: str, fix: str
) -> None:
    env = machine(**options)
    plan = build_plan.make_plan(env)  # auto: CPU kernels only, with a note
    assert plan.nvcc is None and plan.architectures == ()
    assert cause in plan.cuda_note and fix in plan.cuda_note
    text = problem_of(env | {"SSD_OPS_CUDA": "1"})
    assert cause in text and fix in text and "SSD_OPS_CUDA=0" in text
    assert build_plan.make_plan(env | {"SSD_OPS_CUDA": "0"}).cuda_note == "SSD_OPS_CUDA=0 was set."


def test_mismatched_cuda_toolkit_raises_with_gpu(machine: Machine) -> None:
    assert "the major versions must be equal" in problem_of(machine(cuda="12.8", gpu="9.0"))
    assert build_plan.make_plan(machine(gpu="9.0", cuda="13.0")).architectures == ("90-real",)


def test_gpu_without_nvcc_is_no_error(machine: Machine) -> None:
    assert "no nvcc was found" in build_plan.make_plan(machine(nvcc=None, gpu="9.0")).cuda_note


def test_unknown_ssd_ops_cuda_value_raises(machine: Machine) -> None:
    assert problem_of(machine() | {"SSD_OPS_CUDA": "yes"}).startswith("SSD_OPS_CUDA=yes: it must be auto, 1")


def test_find_torch_prefers_torch_of_this_python(program: Program, torch_folder: Callable[..., Path]) -> None:
    import torch

    program("python3", f"echo {torch_folder()}")
    found = build_plan.find_torch({"PATH": str(torch_folder().parent / "bin")})
    assert found is not None and found.version == torch.__version__ and found.cuda == torch.version.cuda


@pytest.mark.parametrize("variable", ["PATH", "VIRTUAL_ENV", "CONDA_PREFIX"])
def test_find_torch_in_active_environment(
    variable: str, tmp_path: Path, program: Program, torch_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    # `build` and uv run a new Python, in whose environment there is no torch
    monkeypatch.setattr(build_plan.sys, "executable", "no-such-python")
    monkeypatch.setattr(build_plan, "find_spec", lambda _: None)
    assert build_plan.find_torch({"PATH": str(tmp_path)}) is None
    program("python3", f"echo {torch_folder(version='2.12.1+cu130')}")
    folder = tmp_path / "bin" if variable == "PATH" else tmp_path
    found = build_plan.find_torch({"PATH": "", variable: str(folder)})
    assert found is not None and found.version == "2.12.1+cu130"
