"""Tests the choice of GPU architectures that CUDA kernels are compiled for."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from cuda_plan import architectures, gpu_capabilities, nvcc_capabilities
from probe import BuildProblem

CUDA_13 = ("7.5", "8.0", "8.6", "8.7", "8.9", "9.0", "10.0", "10.3", "12.0", "12.1")
CUDA_12_0 = ("5.0", "6.0", "7.0", "7.5", "8.0", "8.6", "8.9", "9.0")
WITHOUT_GPU = ("75-virtual",)


@pytest.mark.parametrize(
    ("requested", "present", "known", "expected"),
    [
        ("", (), CUDA_13, WITHOUT_GPU),
        ("", (), CUDA_12_0, WITHOUT_GPU),
        ("", (), ("9.0", "12.0"), ("90-virtual",)),  # an nvcc of the future
        ("", ("9.0",), CUDA_13, ("90-real",)),
        ("", ("8.0", "8.6"), CUDA_13, ("80-real", "86-real")),
        ("", ("12.0",), CUDA_12_0, ("90-real", "90-virtual")),  # newer than nvcc: PTX, compiled by the driver
        ("", ("7.0",), CUDA_13, WITHOUT_GPU),  # no longer supported by nvcc: as without a GPU
        ("8.0;8.6", ("9.0",), CUDA_13, ("80-real", "86-real")),
        ("9.0+PTX", (), CUDA_13, ("90-real", "90-virtual")),
        ("8.0, 9.0a 12.0+PTX", (), CUDA_13, ("80-real", "90a-real", "120-real", "120-virtual")),
        ("8.6 8.6", (), CUDA_13, ("86-real",)),
        (" ; ", ("8.9",), CUDA_13, ("89-real",)),
    ],
)
def test_cuda_architectures(
    requested: str, present: tuple[str, ...], known: tuple[str, ...], expected: tuple[str, ...]
) -> None:
    assert architectures(requested, present, known)[0] == expected


@pytest.mark.parametrize(
    ("requested", "present", "reason"),
    [
        ("", (), r"no GPU .* PTX only, which the driver of a GPU from 7\.5 on compiles at first use"),
        ("", ("8.6", "9.0"), r"GPUs of compute capability 8\.6, 9\.0"),
    ],
)
def test_chosen_architectures_come_with_reason_and_variable(
    requested: str, present: tuple[str, ...], reason: str
) -> None:
    text = architectures(requested, present, CUDA_13)[1]
    assert re.search(reason, text) and "TORCH_CUDA_ARCH_LIST='8.0;9.0;12.0+PTX' (for example) chooses others" in text


def test_requested_architectures_come_with_reason() -> None:
    assert architectures("9.0", (), CUDA_13)[1] == "TORCH_CUDA_ARCH_LIST is set."


@pytest.mark.parametrize(("requested", "entry"), [("8.0;Hopper", "Hopper"), ("90", "90"), ("8.0;9.0+ptx", "9.0+ptx")])
def test_malformed_arch_list_entry_raises(requested: str, entry: str) -> None:
    with pytest.raises(BuildProblem, match=r"TORCH_CUDA_ARCH_LIST") as caught:
        architectures(requested, (), CUDA_13)
    assert repr(entry) in str(caught.value) and "is not of the form" in str(caught.value)


def test_architecture_unknown_to_nvcc_raises() -> None:
    with pytest.raises(BuildProblem, match=r"'7\.0' is unknown to this nvcc.*7\.5, 8\.0"):
        architectures("7.0;8.0", (), CUDA_13)


def test_gpu_capabilities_come_from_nvidia_smi(tmp_path: Path, program: Callable[[str, str], Path]) -> None:
    program("nvidia-smi", "printf '12.0\\n9.0\\n9.0\\n'")
    assert gpu_capabilities({"PATH": str(tmp_path / "bin")}) == ("9.0", "12.0")


@pytest.mark.parametrize("code", ["echo 'NVIDIA-SMI has failed'; exit 9", "echo 'No devices were found'"])
def test_nvidia_smi_without_gpu_means_no_gpu(tmp_path: Path, program: Callable[[str, str], Path], code: str) -> None:
    program("nvidia-smi", code)
    assert gpu_capabilities({"PATH": str(tmp_path / "bin")}) == ()
    assert gpu_capabilities({"PATH": str(tmp_path / "empty")}) == ()


def test_nvcc_capabilities_are_sorted_numerically(program: Callable[[str, str], Path]) -> None:
    nvcc = program("nvcc", "printf 'compute_75\\ncompute_110\\ncompute_103\\ncompute_90\\n'")
    assert nvcc_capabilities(str(nvcc)) == ("7.5", "9.0", "10.3", "11.0")
