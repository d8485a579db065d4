"""Compiles every kernel with nvcc and fails on a spill, or on local memory, that resources.json does not allow.

    python tests/emu/check_resources.py              the table of all kernels, then errors
    python tests/emu/check_resources.py nms.cu       one file of csrc/cuda, or any other path
    python tests/emu/check_resources.py --architectures 75 90     in half the time
    python tests/emu/check_resources.py --update     writes the current local memory of the kernels to resources.json

Warnings are errors. Registers spilled to local memory, and arrays that the compiler puts there, make a kernel much slower
without any other sign; resources.json lists the kernels that may have them, with the bytes on each architecture.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
TABLE = Path(__file__).with_name("resources.json")
ARCHITECTURES = (75, 80, 90, 120)


@dataclass
class Kernel:
    """Resources of one kernel on one architecture: registers per thread, memory in bytes."""

    file: str
    name: str
    architecture: int
    registers: int = 0
    shared: int = 0  # static; dynamic shared memory is the launcher's choice
    stack: int = 0
    spills: int = 0

    @property
    def key(self) -> str:
        return f"{self.file}: {self.name}"


def find_nvcc() -> str:
    home = os.environ.get("CUDA_HOME")
    nvcc = shutil.which("nvcc") or (home and shutil.which(f"{home}/bin/nvcc"))
    if not nvcc:
        sys.exit("check_resources.py needs nvcc: put it on PATH, or its folder's parent into CUDA_HOME")
    return nvcc


def compile_file(nvcc: str, source: Path, architectures: Sequence[int]) -> str:
    """Returns ptxas's report of the kernels of one file; the flags are those of CMakeLists.txt."""
    command = [nvcc, "-std=c++20", "-O3", "-DNDEBUG", "-fmad=false", "-Werror=all-warnings", "-Xptxas=-v", "-t2"]
    command += ["-Xcompiler=-Wall,-Wextra,-Werror", f"-I{ROOT / 'csrc'}"]
    for architecture in architectures:
        command += ["-gencode", f"arch=compute_{architecture},code=sm_{architecture}"]
    with tempfile.TemporaryDirectory() as folder:
        command += ["-c", str(source), "-o", f"{folder}/kernels.o"]
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{source} does not compile:\n{done.stdout}{done.stderr}")
    return done.stdout + done.stderr


def parse(file: str, text: str) -> list[Kernel]:
    """Returns the kernels of ptxas's report. A function that is not inlined counts to the kernel before it."""
    kernels: list[Kernel] = []
    for line in text.splitlines():
        if entry := re.search(r"Compiling entry function '(\S+)' for 'sm_(\d+)\w*'", line):
            kernels.append(Kernel(file, entry[1], int(entry[2])))
        elif frame := re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", line):
            kernels[-1].stack = max(kernels[-1].stack, int(frame[1]))
            kernels[-1].spills += int(frame[2]) + int(frame[3])
        elif used := re.search(r"Used (\d+) registers", line):
            kernels[-1].registers = int(used[1])
            if shared := re.search(r"(\d+) bytes smem", line):
                kernels[-1].shared = int(shared[1])
    return kernels


def demangle(kernels: list[Kernel]) -> None:
    """Replaces the names by those of the source, with template arguments, without namespaces and parameters."""
    names = "\n".join(kernel.name for kernel in kernels)
    filtered = subprocess.run(["c++filt"], input=names, capture_output=True, text=True, check=True).stdout
    for kernel, name in zip(kernels, filtered.splitlines(), strict=True):
        name = re.sub(r"\(anonymous namespace\)::|_GLOBAL__N__\w+::|\bssd_ops::|^void ", "", name)
        kernel.name = without_parameters(re.sub(r"\((?:int|unsigned int|bool|[\w:]+)\)(-?\d+)", r"\1", name))


def without_parameters(name: str) -> str:
    """Returns `f<g(1)>` of `f<g(1)>(int, float)`: the text before the first parenthesis outside of <>."""
    depth = 0
    for i, character in enumerate(name):
        depth += (character == "<") - (character == ">")
        if character == "(" and depth == 0:
            return name[:i]
    return name


def table_of(kernels: list[Kernel]) -> str:
    architectures = sorted({kernel.architecture for kernel in kernels})
    lines = [
        f"{'registers, static shared, stack and spilled bytes on':60}" + "".join(f"sm_{a:<18}" for a in architectures)
    ]
    for key in dict.fromkeys(kernel.key for kernel in kernels):
        cells = {k.architecture: f"{k.registers} {k.shared} {k.stack} {k.spills}" for k in kernels if k.key == key}
        lines.append(f"{key:60}" + "".join(f"{cells.get(a, '-'):21}" for a in architectures))
    return "\n".join(line.rstrip() for line in lines)


def local_memory(kernels: list[Kernel]) -> dict[str, dict[str, dict[str, int]]]:
    """Returns kernels with local memory: {"nms.cu: nms_kernel<float>": {"sm_75": {"stack": 32, "spills": 0}}}."""
    found: dict[str, dict[str, dict[str, int]]] = {}
    for kernel in sorted(kernels, key=lambda k: (k.key, k.architecture)):
        if kernel.stack or kernel.spills:
            row = {"stack": kernel.stack, "spills": kernel.spills}
            found.setdefault(kernel.key, {})[f"sm_{kernel.architecture}"] = row
    return found


def find_errors(kernels: list[Kernel], allowed: dict[str, dict[str, dict[str, int]]]) -> list[str]:
    """Returns one line for each kernel that has more local memory than the table allows."""
    lines = []
    for key, architectures in local_memory(kernels).items():
        for architecture, row in architectures.items():
            limit = allowed.get(key, {}).get(architecture, {"stack": 0, "spills": 0})
            for kind, count in row.items():
                if count > limit[kind]:
                    lines.append(f"{key} on {architecture}: {kind} {count} bytes, {limit[kind]} allowed")
    return lines


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", help="files of csrc/cuda, all without any")
    parser.add_argument("--architectures", nargs="+", type=int, choices=ARCHITECTURES, default=ARCHITECTURES)
    parser.add_argument("--update", action="store_true", help="rewrite resources.json")
    options = parser.parse_args(arguments)
    sources = [Path(f) if Path(f).exists() else next((ROOT / "csrc/cuda").rglob(f), Path(f)) for f in options.files]
    sources = sources or sorted((ROOT / "csrc/cuda").rglob("*.cu"))
    if options.update and (options.files or len(options.architectures) < len(ARCHITECTURES)):
        parser.error("--update needs all files and architectures")
    nvcc = find_nvcc()
    with ThreadPoolExecutor(max(1, (os.cpu_count() or 2) // 2)) as pool:  # nvcc itself uses two threads
        texts = list(pool.map(lambda source: compile_file(nvcc, source, options.architectures), sources))
    kernels = [kernel for source, text in zip(sources, texts, strict=True) for kernel in parse(source.name, text)]
    demangle(kernels)
    kernels.sort(key=lambda k: k.key)
    print(table_of(kernels))
    if options.update:
        TABLE.write_text(json.dumps(local_memory(kernels), indent=2) + "\n")
        return 0
    errors = find_errors(kernels, json.loads(TABLE.read_text()))
    for line in errors:
        print(f"error: {line}", file=sys.stderr)
    if errors:
        print("Fix the kernel, or allow the local memory with --update and say why.", file=sys.stderr)
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
