"""Builds libssd_ops_emu.so with ninja: csrc/ops and csrc/cuda compiled by g++ against the emulator's headers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent.parent
HERE = Path(__file__).resolve().parent
FLAGS = (
    "-O2 -fPIC -fvisibility=hidden -ffp-contract=off -fno-math-errno -std=c++17 -DSSD_OPS_EMULATED "
    f"-DSSD_OPS_WITH_CUDA=1 -I{HERE} -I{ROOT}/csrc -I{ROOT}"
)


def build_library() -> Path:
    """Return the path of the library, built anew where a source has changed."""
    folder = ROOT / "build" / "emu"
    folder.mkdir(parents=True, exist_ok=True)
    torch_home = Path(torch.__file__).parent
    lines = [
        f"builddir = {folder}",
        f"rule cxx\n  command = g++ {FLAGS} $flags -MMD -MF $out.d -x c++ -c $in -o $out\n  depfile = $out.d\n  deps = gcc",
        f"rule ld\n  command = g++ -shared -o $out $in -L{torch_home}/lib -ltorch_cpu -ldl",
    ]
    objects: list[Path] = []

    def add(source: Path, prefix: str, flags: str = "") -> None:
        objects.append(folder / f"{prefix}_{source.name}.o")
        lines.append(f"build {objects[-1]}: cxx {source}\n  flags = {flags}")

    for source in sorted(HERE.glob("*.cpp")):
        add(source, "emu")
    for source in sorted((ROOT / "csrc/cpu/dispatch").glob("*.cpp")):
        add(source, "dispatch", "-DSSD_OPS_ISA_LIST_X86=1")
    for source in sorted((ROOT / "csrc/cpu").glob("*.cpp")):
        for isa in ("baseline", "avx2", "avx512"):  # the glue names them all; none is ever called
            add(source, isa, f"-O1 -DSSD_OPS_ISA={isa}")
    for source in sorted((ROOT / "csrc/ops").glob("*.cpp")):
        add(source, "ops", f"-isystem {torch_home}/include -DTORCH_TARGET_VERSION=0x020b000000000000ULL")
    for source in sorted((ROOT / "csrc/cuda").glob("*.cu")):
        add(source, "cuda")
    library = folder / "libssd_ops_emu.so"
    lines.append(f"build {library}: ld {' '.join(map(str, objects))}\n")
    (folder / "build.ninja").write_text("\n".join(lines))
    done = subprocess.run(
        [sys.executable, "-m", "ninja", "-f", str(folder / "build.ninja")], capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(f"the emulated library does not build:\n{done.stdout}{done.stderr}")
    return library
