"""Determines whether CUDA kernels can be built on this machine, and for which GPUs."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence

from probe import BuildProblem, compile_probe, host_compiler, run_text, version_pair

# Without a GPU in the machine: PTX, which the driver of every later GPU compiles at first use. Machine code for 8.x
# besides would double the time of nvcc.
DEFAULT_PTX = "7.5"
OTHERS = "TORCH_CUDA_ARCH_LIST='8.0;9.0;12.0+PTX' (for example) chooses others."


def find_nvcc(env: Mapping[str, str]) -> str | None:
    """Returns the path of nvcc from $CUDACXX, $CUDA_HOME, $CUDA_PATH, PATH or /usr/local/cuda; None if missing."""
    homes = [env[name] for name in ("CUDA_HOME", "CUDA_PATH") if env.get(name)]
    wanted = [env.get("CUDACXX", ""), *(f"{home}/bin/nvcc" for home in homes), "nvcc", "/usr/local/cuda/bin/nvcc"]
    return next((path for name in wanted if name and (path := shutil.which(name, path=env.get("PATH")))), None)


def gpu_capabilities(env: Mapping[str, str]) -> tuple[str, ...]:
    """Returns the compute capabilities of the GPUs present, such as ("9.0",), in ascending order."""
    program = shutil.which("nvidia-smi", path=env.get("PATH"))
    lines = run_text(program, "--query-gpu=compute_cap", "--format=csv,noheader").split() if program else []
    return tuple(sorted({line for line in lines if re.fullmatch(r"\d+\.\d", line)}, key=version_pair))


def cuda_obstacle(torch_version: str, torch_cuda: str | None, nvcc: str | None, cxx: str) -> str:
    """Returns a paragraph that explains why CUDA kernels cannot be built, "" if they can."""
    if torch_cuda is None:
        return f"torch {torch_version} is a build without CUDA. Install a CUDA build of torch for CUDA kernels."
    major = version_pair(torch_cuda)[0]
    if nvcc is None:
        return (
            f"torch {torch_version} has CUDA {torch_cuda}, but no nvcc was found (in CUDACXX, CUDA_HOME, PATH, "
            f"/usr/local/cuda). Install the CUDA {major} toolkit, or point CUDA_HOME at it, and run pip install again."
        )
    release = re.search(r"release (\d+)\.(\d+)", run_text(nvcc, "--version"))
    if release is None:
        return f"{nvcc} --version does not print a version of nvcc. Point CUDA_HOME at a complete CUDA toolkit."
    if int(release[1]) != major:
        return (
            f"{nvcc} is of CUDA {release[1]}.{release[2]} and torch {torch_version} of CUDA {torch_cuda}: the major "
            f"versions must be equal. Point CUDA_HOME at a CUDA {major} toolkit, or install a torch built for CUDA "
            f"{release[1]}."
        )
    source = "#include <cuda_runtime.h>\n#include <vector>\n__global__ void probe() {}\n"
    errors = compile_probe([nvcc, "-std=c++20", "-ccbin", host_compiler(cxx), "-c"], source, ".cu")
    if errors:
        return (
            f"{nvcc} cannot compile a three-line file: {errors}. Either the toolkit has no headers "
            "(install cuda-cudart-dev or the whole toolkit), or it does not support this C++ compiler (set CUDAHOSTCXX "
            "to an older g++)."
        )
    return ""


def nvcc_capabilities(nvcc: str) -> tuple[str, ...]:
    """Returns the compute capabilities that this nvcc can compile for, in ascending order."""
    numbers = re.findall(r"^compute_(\d+)(\d)$", run_text(nvcc, "--list-gpu-arch"), re.MULTILINE)
    return tuple(sorted((f"{major}.{minor}" for major, minor in numbers), key=version_pair))


def architectures(requested: str, present: Sequence[str], known: Sequence[str]) -> tuple[tuple[str, ...], str]:
    """Returns the architectures to compile CUDA kernels for, in CMake's notation, and a sentence that says why.

    Args:
        requested: TORCH_CUDA_ARCH_LIST, such as "8.0;8.6" or "9.0a 12.0+PTX"; "" if unset.
        present: compute capabilities of the GPUs in this machine.
        known: compute capabilities that nvcc can compile for, in ascending order.
    """
    if entries := [entry for entry in re.split(r"[;,\s]+", requested) if entry]:
        for entry in entries:
            check_entry(entry, requested, known)
        return cmake_names(entries), "TORCH_CUDA_ARCH_LIST is set."
    entries = [capability for capability in present if capability in known]
    if any(version_pair(capability) > version_pair(known[-1]) for capability in present):
        entries.append(f"{known[-1]}+PTX")  # newer than this nvcc: the driver compiles the PTX when it is loaded
    if entries:
        return cmake_names(entries), f"This machine has GPUs of compute capability {', '.join(present)}. {OTHERS}"
    ptx = DEFAULT_PTX if DEFAULT_PTX in known else known[0]
    reason = (
        f"nvidia-smi lists no GPU that nvcc supports, so there is PTX only, which the driver of a GPU from {ptx} on "
        f"compiles at first use. {OTHERS}"
    )
    return (f"{ptx.replace('.', '')}-virtual",), reason


def check_entry(entry: str, requested: str, known: Sequence[str]) -> None:
    """Raises BuildProblem if an entry of TORCH_CUDA_ARCH_LIST is malformed or unknown to nvcc."""
    match = re.fullmatch(r"(\d+\.\d)[af]?(\+PTX)?", entry)
    if match is None or match[1] not in known:
        what = "is not of the form 8.6, 9.0a or 12.0+PTX" if match is None else "is unknown to this nvcc"
        raise BuildProblem(
            f"TORCH_CUDA_ARCH_LIST={requested!r}: {entry!r} {what}. nvcc compiles for {', '.join(known)}. Separate "
            "entries by ';', or unset the variable to build for the GPUs of this machine."
        )


def cmake_names(entries: Sequence[str]) -> tuple[str, ...]:
    """Returns "8.6" as "86-real", and "12.0+PTX" as "120-real" and "120-virtual"; each name once."""
    names: list[str] = []
    for entry in entries:
        name = entry.removesuffix("+PTX").replace(".", "")
        names += [f"{name}-real"] + ([f"{name}-virtual"] if entry.endswith("+PTX") else [])
    return tuple(dict.fromkeys(names))
