"""Builds the CUDA kernels for the CPU with g++ and ninja, in three variants.

`plain` is what the op tests run; `sanitized` has AddressSanitizer and UndefinedBehaviorSanitizer in the kernels;
`checked` detects reads of uninitialized shared memory, races in it (check.cpp), and races in global memory
(check_global.cpp). Output files are in build/emu/<variant>, and only what has changed is built again.
"""

from __future__ import annotations

import fcntl
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
FOLDER = ROOT / "build" / "emu"
VARIANTS = ("plain", "sanitized", "checked")

SANITIZERS = "-fsanitize=address,undefined,float-cast-overflow -fno-sanitize=vptr -fno-sanitize-recover=all"
COMMON = "-std=c++20 -fPIC -fvisibility=hidden -g1 -ffp-contract=off -fno-math-errno -DSSD_OPS_WITH_CUDA=1"
INCLUDES = f"-DSSD_OPS_EMULATED -I{HERE} -I{ROOT / 'csrc'} -I{ROOT}"
# nvcc does not reorder accesses by the types of pointers (strict aliasing). "checked" disables three optimizations that
# would insert accesses that the source does not have.
KERNEL_FLAGS = {
    "plain": "-O2 -fno-strict-aliasing",
    "sanitized": f"-Og -fno-strict-aliasing -fno-omit-frame-pointer {SANITIZERS}",
    "checked": "-O1 -fno-strict-aliasing -fno-tree-loop-im -fno-tree-pre -fno-if-conversion -DSSD_OPS_EMU_CHECKED "
    "-fsanitize=thread --param tsan-instrument-func-entry-exit=0 --param tsan-distinguish-volatile=1",
}
EMULATOR_FLAGS = {"plain": "-O2", "sanitized": f"-O1 {SANITIZERS}", "checked": "-O2 -DSSD_OPS_EMU_CHECKED"}
LINK_FLAGS = {"plain": "", "sanitized": SANITIZERS, "checked": ""}
RULES = f"""builddir = {FOLDER}
rule cxx
  command = g++ {COMMON} {INCLUDES} $flags -MMD -MF $out.d -x c++ -c $in -o $out
  description = g++ $in
  depfile = $out.d
  deps = gcc
rule header
  command = g++ {COMMON} {INCLUDES} $flags -MMD -MF $out.d -x c++-header -c $in -o $out
  description = g++ $in
  depfile = $out.d
  deps = gcc
rule link
  command = g++ -o $out $in $flags -ldl
  description = link $out
"""


def _objects(
    lines: list[str], sources: Iterable[Path], folder: str, flags: str, header: Path | None = None
) -> list[Path]:
    """Adds the compilation of the sources to the plan, with a precompiled header or without; returns the objects."""
    objects = []
    after = ""
    if header is not None:
        lines += [f"build {header}.gch: header {header}", f"  flags = {flags}"]
        flags, after = f"{flags} -include {header}", f" | {header}.gch"
    for source in sorted(sources):
        objects.append(FOLDER / folder / f"{source.name}.o")
        lines += [f"build {objects[-1]}: cxx {source}{after}", f"  flags = {flags}"]
    return objects


def _torch_header() -> Path:
    """Returns a header with all of torch that the glue include, three quarters of what a compiler does there."""
    header = FOLDER / "ops" / "precompiled.h"
    text = '#include "ops/glue.h"\n'
    if not header.exists() or header.read_text() != text:
        header.parent.mkdir(parents=True, exist_ok=True)
        header.write_text(text)
    return header


def _link(lines: list[str], variant: str, name: str, objects: list[Path], flags: str = "") -> None:
    lines.append(f"build {FOLDER / variant / name}: link {' '.join(map(str, objects))}")
    lines.append(f"  flags = {LINK_FLAGS[variant]} {flags}")


@lru_cache(maxsize=1)
def _plan() -> str:
    """Returns the ninja file of every variant of the library and of the emulator's own programs."""
    torch = importlib.util.find_spec("torch")
    assert torch is not None and torch.origin is not None
    torch_home = Path(torch.origin).parent
    lines = [RULES]
    csrc = ROOT / "csrc"
    # The glue also call the CPU kernels, which never run here: one instruction set is enough. -O1 removes the calls
    # of the others, which would be undefined symbols.
    glue = _objects(
        lines,
        (csrc / "ops").glob("*.cpp"),
        "ops",
        f"-O1 -isystem {torch_home}/include -DTORCH_TARGET_VERSION=0x020b000000000000ULL",
        _torch_header(),
    )
    glue += _objects(lines, (csrc / "cpu").rglob("*.cpp"), "cpu", "-O0 -DSSD_OPS_ISA=baseline")
    for variant in VARIANTS:
        emulator = _objects(lines, HERE.glob("*.cpp"), f"{variant}/emulator", EMULATOR_FLAGS[variant])
        kernels = _objects(lines, (csrc / "cuda").rglob("*.cu"), f"{variant}/cuda", KERNEL_FLAGS[variant])
        flags = f"-shared -L{torch_home}/lib -ltorch_cpu"
        _link(lines, variant, "libssd_ops_emu.so", glue + kernels + emulator, flags)
        for source in (HERE / "kernels").glob("*.cu"):
            own = _objects(lines, [source], f"{variant}/kernels", KERNEL_FLAGS[variant])
            _link(lines, variant, source.stem, own + emulator)
    return "\n".join(lines) + "\n"


def _build(*targets: Path) -> None:
    """Builds the targets; concurrent processes take turns."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    with open(FOLDER / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        (FOLDER / "build.ninja").write_text(_plan())
        ninja = ["ninja"] if shutil.which("ninja") else [sys.executable, "-m", "ninja"]
        command = [*ninja, "--quiet", "-f", str(FOLDER / "build.ninja"), *map(str, targets)]
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"the emulated kernels do not build:\n{done.stdout}{done.stderr}")


def build_library(variant: str = "plain") -> Path:
    """Returns libssd_ops_emu.so: csrc/ops and csrc/cuda, registered as ops of the namespace ssd_ops_emu."""
    library = FOLDER / variant / "libssd_ops_emu.so"
    _build(library)
    if variant == "sanitized":
        _require_red_zones(sorted((FOLDER / variant / "cuda").glob("*.o")))
    return library


def build_programs(*sources: str) -> dict[tuple[str, str], Path]:
    """Returns the programs made of tests/emu/kernels/<source>.cu and the emulator, by source and variant."""
    programs = {(source, variant): FOLDER / variant / source for source in sources for variant in VARIANTS}
    _build(*programs.values())
    for source in sources:
        _require_red_zones([FOLDER / "sanitized" / "kernels" / f"{source}.cu.o"])
    return programs


def _require_red_zones(objects: list[Path]) -> None:
    """Raises for static shared arrays with external linkage, which AddressSanitizer does not guard.

    Variables of up to 16 bytes, numbers and flags that are not indexed, are accepted.
    """
    found = subprocess.run(["nm", "-CS", *map(str, objects)], capture_output=True, text=True, check=True).stdout
    rows = [line.split(maxsplit=3) for line in found.splitlines()]
    variables = [(int(row[1], 16), row[3]) for row in rows if len(row) == 4 and row[2] in "uVv" and ")::" in row[3]]
    shared = {name for size, name in variables if size > 16 and "guard variable" not in name}
    if shared:
        names = "\n  ".join(sorted(shared))
        raise RuntimeError(
            "AddressSanitizer cannot guard these shared arrays, since their functions have external linkage; make the "
            f"device function static, or put it into an anonymous namespace:\n  {names}"
        )


def sanitizer_environment() -> dict[str, str]:
    """Returns the environment in which a Python process can load the sanitized library."""
    names = ("libasan.so", "libubsan.so", "libstdc++.so")
    libraries = [
        subprocess.run(["g++", f"-print-file-name={name}"], capture_output=True, text=True, check=True).stdout.strip()
        for name in names
    ]
    return {
        **os.environ,
        "LD_PRELOAD": " ".join(libraries),
        "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0:abort_on_error=0",
        "UBSAN_OPTIONS": "print_stacktrace=1",
    }
