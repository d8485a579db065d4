"""Tests the check of registers and local memory: on a report of ptxas, and on kernels that nvcc compiles if installed."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.emu import check_resources

pytestmark = pytest.mark.slow

REPORT = """\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '_ZN7ssd_ops12_GLOBAL__N_110nms_kernelIfLi4EEEvPKT_i' for 'sm_90a'
ptxas info    : Function properties for _ZN7ssd_ops12_GLOBAL__N_110nms_kernelIfLi4EEEvPKT_i
    32 bytes stack frame, 8 bytes spill stores, 12 bytes spill loads
ptxas info    : Used 40 registers, used 1 barriers, 32 bytes cumulative stack size, 640 bytes smem
ptxas info    : Compiling entry function '_Z3onePi' for 'sm_75'
ptxas info    : Function properties for _Z3onePi
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 6 registers, used 0 barriers
"""


def test_report_of_ptxas_is_parsed() -> None:
    kernels = check_resources.parse("nms.cu", REPORT)
    check_resources.demangle(kernels)
    assert kernels == [
        check_resources.Kernel("nms.cu", "nms_kernel<float, 4>", 90, registers=40, shared=640, stack=32, spills=20),
        check_resources.Kernel("nms.cu", "one", 75, registers=6),
    ]


@pytest.mark.parametrize(
    ("stack", "spills", "count"), [(32, 20, 0), (40, 20, 0), (31, 20, 1), (32, 19, 1), (0, 0, 2), (None, None, 2)]
)
def test_local_memory_must_be_allowed(stack: int | None, spills: int | None, count: int) -> None:
    kernels = check_resources.parse("nms.cu", REPORT)
    check_resources.demangle(kernels)
    allowed = {}
    if stack is not None and spills is not None:
        allowed = {"nms.cu: nms_kernel<float, 4>": {"sm_90": {"stack": stack, "spills": spills}}}
    assert len(check_resources.find_errors(kernels, allowed)) == count


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="needs nvcc")
def test_local_memory_reported_by_nvcc_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "planted.cu"
    source.write_text(
        "__global__ void local_kernel(int* out, int n) {\n"
        "  int local[64];\n"
        "  for (int i = 0; i < 64; ++i) local[i] = out[i];\n"
        "  for (int i = 0; i < n; ++i) local[out[i] & 63] += local[(out[i] >> 6) & 63];\n"
        "  for (int i = 0; i < 64; ++i) out[i] = local[i];\n"
        "}\n"
    )
    assert check_resources.main([str(source)]) == 1
    printed = capsys.readouterr()
    assert "planted.cu: local_kernel" in printed.out
    assert "planted.cu: local_kernel on sm_75: stack 256 bytes, 0 allowed" in printed.err
    source.write_text("__global__ void unused_kernel(int* out) { int unused; }\n")
    with pytest.raises(SystemExit, match="does not compile"):
        check_resources.main([str(source)])
