"""Tests the disassembled library: no fused multiply-add, and AVX code only where it is allowed."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator

import pytest

from ssd_ops._library import LIBRARY, build_info

pytestmark = pytest.mark.skipif(
    not LIBRARY.exists()
    or not shutil.which("objdump")
    or "avx512" not in (build_info()["compiled"] or {}).get("isa_compiled", ()),
    reason="needs a library compiled for x86-64, and objdump",
)


@pytest.fixture(scope="module")
def instructions() -> list[tuple[str, str]]:
    """All instructions of the library, each with the demangled name of its function."""

    def walk() -> Iterator[tuple[str, str]]:
        command = ["objdump", "--disassemble", "--demangle", "--no-show-raw-insn", str(LIBRARY)]
        function = ""
        for line in subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines():
            if heading := re.fullmatch(r"[0-9a-f]+ <(.*)>:", line):
                function = heading[1]
            elif ":\t" in line:
                yield function, line.split(":\t", 1)[1]

    return list(walk())


def test_library_has_no_fused_multiply_add(instructions: list[tuple[str, str]]) -> None:
    fused = {function for function, code in instructions if re.match(r"vfn?m(add|sub)", code)}
    assert not fused, "a fused multiply-add rounds once where the reference rounds twice"


def test_avx_code_is_limited_to_its_namespace(instructions: list[tuple[str, str]]) -> None:
    wide = {function for function, code in instructions if re.search(r"%[yz]mm", code)}
    strays = {function for function in wide if "::avx2::" not in function and "::avx512::" not in function}
    assert not strays, "put these in namespace SSD_OPS_ISA, or a CPU without AVX may execute them"
    assert not [f for f, code in instructions if "%zmm" in code and "::avx512::" not in f]
    assert wide, "the wide instruction sets were not compiled in at all"


def test_library_exports_no_symbols() -> None:
    symbols = subprocess.run(
        ["nm", "--dynamic", "--defined-only", str(LIBRARY)], capture_output=True, text=True, check=True
    )
    assert symbols.stdout.split() == []
