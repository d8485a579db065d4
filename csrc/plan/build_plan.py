"""Determines what to build on this machine: finds torch, the compiler and CUDA, and explains what is missing.

`setup.py` imports it; `CMakeLists.txt` runs it if CMake is called directly. It does not import torch. Every obstacle is
a `BuildProblem`: one paragraph with the cause and a fix.
"""

from __future__ import annotations

import json
import os
import platform
import runpy
import shlex
import shutil
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from cuda_plan import architectures, cuda_obstacle, find_nvcc, gpu_capabilities, nvcc_capabilities
from probe import BuildProblem, NoCompiler, command_words, compile_probe, host_compiler, run_text, version_pair

MIN_TORCH = (2, 11)
Environment = Mapping[str, str]


@dataclass(frozen=True)
class Torch:
    path: Path  # folder of the package
    version: str  # "2.15.0+cu132"
    cuda: str | None  # "13.2", or None for a build without CUDA


@dataclass(frozen=True)
class Plan:
    torch: Torch
    cxx: str  # command of the C++ compiler, may have a launcher ("ccache g++")
    nvcc: str | None  # None: CPU kernels only
    architectures: tuple[str, ...]  # in CMake's notation: "80-real", "120-virtual"
    cuda_note: str  # why there are no CUDA kernels, "" if there are
    architecture_note: str  # why these architectures, "" without CUDA kernels

    def definitions(self) -> dict[str, str]:
        """Returns the plan as CMake variables."""
        values = {
            "SSD_OPS_TORCH_DIR": self.torch.path.as_posix(),
            "SSD_OPS_TORCH_VERSION": self.torch.version,
            "SSD_OPS_WITH_CUDA": "ON" if self.nvcc else "OFF",
            "SSD_OPS_CUDA_NOTE": json.dumps(self.cuda_note or None),
        }
        if self.nvcc:
            values["CMAKE_CUDA_COMPILER"] = self.nvcc
            values["CMAKE_CUDA_ARCHITECTURES"] = ";".join(self.architectures)
            values["CMAKE_CUDA_HOST_COMPILER"] = host_compiler(self.cxx)
        return values


# --- torch ----------------------------------------------------------------------------------------------------------
# The library runs on every torch from 2.11 on, so that any installed one has the headers for it: an isolated build need not
# install its own, which takes gigabytes.
_PRINT_TORCH = (
    "import importlib.util as u; s = u.find_spec('torch'); print(s.submodule_search_locations[0] if s else '')"
)


def find_torch(env: Environment = os.environ) -> Torch | None:
    """Returns the torch that is installed where the user works, else that of this build; None if there is neither.

    pip's isolated build runs the user's Python and hides its packages by environment variables, which -E ignores. That of
    `build` and of uv runs a new Python: the user's is that of the active environment, or on PATH.
    """
    active = [f"{env[name]}/bin" for name in ("VIRTUAL_ENV", "CONDA_PREFIX") if env.get(name)]
    folders = [*active, *env.get("PATH", "").split(os.pathsep)]
    pythons = [sys.executable, *(found for folder in folders if (found := shutil.which("python3", path=folder)))]
    for python in dict.fromkeys(pythons):
        torch = torch_of(python)
        if torch is not None and version_pair(torch.version) >= MIN_TORCH:
            return torch
    spec = find_spec("torch")
    own = [read_torch(Path(folder)) for folder in (spec.submodule_search_locations or [] if spec else [])]
    return next(iter(own), None) or torch_of(sys.executable)


def torch_of(python: str) -> Torch | None:
    """Returns the torch that is installed for another Python, None if there is none."""
    with tempfile.TemporaryDirectory() as empty:
        printed = run_text(python, "-E", "-c", _PRINT_TORCH, folder=empty).strip()
    return read_torch(Path(printed)) if printed and (Path(printed) / "version.py").is_file() else None


def read_torch(path: Path) -> Torch:
    """Reads the version file of torch without importing torch, which takes seconds and may fail."""
    names = runpy.run_path(str(path / "version.py"))
    return Torch(path, str(names["__version__"]), names.get("cuda"))


def check_torch(torch: Torch | None) -> Torch:
    """Returns `torch` if the library can be built against it. Raises BuildProblem if not."""
    if torch is None:
        raise BuildProblem(
            "torch is not installed in the environment of this build. Install it first (pip install 'torch>=2.11'), or "
            "omit --no-build-isolation, so that pip installs it for the build."
        )
    if version_pair(torch.version) < MIN_TORCH:
        raise BuildProblem(
            f"torch {torch.version} in {torch.path} is too old: ssd_ops needs 2.11 or newer. Upgrade it with "
            "pip install --upgrade 'torch>=2.11' torchvision."
        )
    if not (torch.path / "include/torch/csrc/stable/library.h").is_file():
        raise BuildProblem(
            f"torch {torch.version} in {torch.path} has no C++ headers (include/torch/csrc/stable/library.h "
            "is missing). Install the official wheel: pip install --force-reinstall torch."
        )
    return torch


# --- C++ compiler ---------------------------------------------------------------------------------------------------
def find_cxx(env: Environment) -> str:
    """Returns the C++ compiler: $CXX, or c++, g++, clang++ on PATH. Raises NoCompiler if there is none."""
    if platform.system() == "Windows":
        raise NoCompiler("The kernels cannot be built on Windows yet; use WSL 2.")
    requested = env.get("CXX", "").strip()
    if requested:
        if any(shutil.which(word, path=env.get("PATH")) is None for word in command_words(requested)):
            raise BuildProblem(f"CXX={requested} is set, but there is no such program. Correct CXX or unset it.")
        return requested
    for name in ("c++", "g++", "clang++"):
        if found := shutil.which(name, path=env.get("PATH")):
            return found
    raise NoCompiler(
        "No C++ compiler was found (c++, g++ or clang++ on PATH, or CXX). Install one (apt install g++, dnf install "
        "gcc-c++, xcode-select --install) and run pip install again."
    )


def check_headers(cxx: str) -> None:
    """Compiles a C++20 file with a standard header. Raises BuildProblem if that fails."""
    command = [*shlex.split(cxx), "-std=c++20", "-c"]
    errors = compile_probe(command, "#include <optional>\nstd::optional<int> x;\n", ".cpp")
    if errors:
        raise BuildProblem(
            f"The C++ compiler '{cxx}' cannot compile a C++20 file with standard headers: {errors}. Install a "
            "complete compiler (apt install g++, version 10 or newer) or point CXX at another one."
        )


# --- the plan -------------------------------------------------------------------------------------------------------
def make_plan(env: Environment = os.environ) -> Plan:
    """Returns the build plan. Raises BuildProblem, or NoCompiler if only the reference can be installed."""
    mode = env.get("SSD_OPS_CUDA", "").strip().lower() or "auto"
    if mode not in ("auto", "1", "0"):
        raise BuildProblem(f"SSD_OPS_CUDA={mode}: it must be auto, 1 (CUDA or fail) or 0 (CPU only).")
    cxx = find_cxx(env)
    torch = check_torch(find_torch(env))
    check_headers(cxx)
    nvcc = find_nvcc(env)
    note = "SSD_OPS_CUDA=0 was set." if mode == "0" else cuda_obstacle(torch.version, torch.cuda, nvcc, cxx)
    present = gpu_capabilities(env)
    # With a GPU, a CUDA build of torch and an nvcc that do not match, the user expects CUDA: raise instead of a note.
    if note and (mode == "1" or (mode == "auto" and present and nvcc and torch.cuda)):
        raise BuildProblem(f"CUDA kernels cannot be built. {note} SSD_OPS_CUDA=0 builds for the CPU only.")
    if note or nvcc is None:
        return Plan(torch, cxx, None, (), note, "")
    wanted, why = architectures(env.get("TORCH_CUDA_ARCH_LIST", ""), present, nvcc_capabilities(nvcc))
    return Plan(torch, cxx, nvcc, wanted, "", why)


def main() -> None:
    """Prints the plan as CMake code, for a direct CMake build."""
    try:
        plan = make_plan()
    except BuildProblem as problem:
        raise SystemExit(f"\nssd_ops: {problem}\n") from None
    for name, value in plan.definitions().items():
        print(f"set({name} [==[{value}]==])")


if __name__ == "__main__":
    main()
