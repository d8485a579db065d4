"""Builds the CUDA kernels for the CPU with g++ and ninja, in three variants.

`plain` is what the op tests run; `sanitized` has AddressSanitizer and UndefinedBehaviorSanitizer in the kernels;
`checked` finds reads of unwritten shared memory and races in it (check.cpp). Everything lies in build/emu/<variant>, and
only what has changed is built anew.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
VARIANTS = ("plain", "sanitized", "checked")

SANITIZERS = "-fsanitize=address,undefined,float-cast-overflow -fno-sanitize=vptr -fno-sanitize-recover=all"
COMMON = (
    "-std=c++17 -fPIC -fvisibility=hidden -g1 -ffp-contract=off -fno-math-errno -DSSD_OPS_EMULATED -DSSD_OPS_WITH_CUDA=1"
)
# nvcc does not use the types of pointers to reorder accesses; without the three optimisations that "checked" leaves out,
# the compiler makes no access that the source does not have.
KERNEL_FLAGS = {
    "plain": "-O2 -fno-strict-aliasing",
    "sanitized": f"-O1 -fno-strict-aliasing -fno-omit-frame-pointer {SANITIZERS}",
    "checked": "-O1 -fno-strict-aliasing -fno-tree-loop-im -fno-tree-pre -fno-if-conversion "
    "-fsanitize=thread --param tsan-instrument-func-entry-exit=0",
}
EMULATOR_FLAGS = {"plain": "-O2", "sanitized": f"-O1 {SANITIZERS}", "checked": "-O2"}
DEFINES = {"plain": "", "sanitized": "", "checked": "-DSSD_OPS_EMU_CHECKED"}
LINK_FLAGS = {"plain": "", "sanitized": SANITIZERS, "checked": ""}


class _Ninja:
    """The text of a ninja file for one variant."""

    def __init__(self, variant: str) -> None:
        self.variant = variant
        self.folder = ROOT / "build" / "emu" / variant
        include = f"-I{HERE} -I{ROOT / 'csrc'} -I{ROOT}"
        self._lines = [
            f"builddir = {self.folder}",
            "rule cxx",
            f"  command = g++ {COMMON} {DEFINES[variant]} {include} $flags -MMD -MF $out.d -x c++ -c $in -o $out",
            "  depfile = $out.d",
            "  deps = gcc",
            "rule link",
            f"  command = g++ {LINK_FLAGS[variant]} -o $out $in $flags -ldl",
        ]

    def objects(self, sources: list[Path], prefix: str, flags: str) -> list[Path]:
        outputs = [self.folder / f"{prefix}_{source.name}.o" for source in sources]
        for source, output in zip(sources, outputs, strict=True):
            self._lines += [f"build {output}: cxx {source}", f"  flags = {flags}"]
        return outputs

    def kernels(self, sources: list[Path]) -> list[Path]:
        return self.objects(sources, "kernel", KERNEL_FLAGS[self.variant])

    def emulator(self) -> list[Path]:
        return self.objects(sorted(HERE.glob("*.cpp")), "emu", EMULATOR_FLAGS[self.variant])

    def link(self, name: str, objects: list[Path], flags: str) -> Path:
        output = self.folder / name
        self._lines += [f"build {output}: link {' '.join(map(str, objects))}", f"  flags = {flags}"]
        return output

    def run(self, name: str) -> None:
        """Builds; processes that ask at the same time take turns."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.folder / "lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            plan = self.folder / f"{name}.ninja"
            plan.write_text("\n".join(self._lines) + "\n")
            ninja = ["ninja"] if shutil.which("ninja") else [sys.executable, "-m", "ninja"]
            done = subprocess.run([*ninja, "-f", str(plan)], capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"the emulated kernels do not build ({self.variant}):\n{done.stdout}{done.stderr}")


def build_library(variant: str = "plain") -> Path:
    """Return libssd_ops_emu.so: csrc/ops and csrc/cuda, registered as ops of the namespace ssd_ops_emu."""
    import torch

    torch_home = Path(torch.__file__).parent
    ninja = _Ninja(variant)
    kernels = ninja.kernels(sorted((ROOT / "csrc/cuda").glob("*.cu")))
    glue = f"-O1 -isystem {torch_home}/include -DTORCH_TARGET_VERSION=0x020b000000000000ULL"
    objects = kernels + ninja.emulator() + ninja.objects(sorted((ROOT / "csrc/ops").glob("*.cpp")), "ops", glue)
    # The glue also names the CPU kernels, which never run here: one instruction set is enough.
    objects += ninja.objects(sorted((ROOT / "csrc/cpu").glob("*.cpp")), "cpu", "-O0 -DSSD_OPS_ISA=baseline")
    objects += ninja.objects(sorted((ROOT / "csrc/cpu/dispatch").glob("*.cpp")), "dispatch", "-O0")
    library = ninja.link("libssd_ops_emu.so", objects, f"-shared -L{torch_home}/lib -ltorch_cpu")
    ninja.run("library")
    if variant == "sanitized":
        _require_red_zones(kernels)
    return library


def build_program(source: str, variant: str = "plain") -> Path:
    """Return the program made of tests/emu/kernels/<source>.cu and the emulator."""
    ninja = _Ninja(variant)
    objects = ninja.kernels([HERE / "kernels" / f"{source}.cu"]) + ninja.emulator()
    program = ninja.link(source, objects, "")
    ninja.run(source)
    if variant == "sanitized":
        _require_red_zones(objects)
    return program


def _require_red_zones(objects: list[Path]) -> None:
    """Refuses static shared memory with linkage: AddressSanitizer guards only what no other file can have too."""
    found = subprocess.run(["nm", "-C", *map(str, objects)], capture_output=True, text=True, check=True).stdout
    shared = [line[19:] for line in found.splitlines() if line[17:18] in "uVv" and "guard variable" not in line and "::" in line]
    if shared:
        names = "\n  ".join(sorted(set(shared)))
        raise RuntimeError(
            "AddressSanitizer cannot guard these static variables, since their function is not in an anonymous "
            f"namespace; put the kernel or device function into one:\n  {names}"
        )


def sanitizer_environment() -> dict[str, str]:
    """Return the environment in which a Python process can load the sanitized library."""
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
