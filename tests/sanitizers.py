"""Runs the ops with AddressSanitizer and UndefinedBehaviorSanitizer in the kernels and glue (a stage of .ci/run).

    python -m tests.sanitizers            emulated CUDA kernels, then the op tests for each instruction set of this CPU
    python -m tests.sanitizers --long     more than 100,000 new property cases for each (some hours)
    python -m tests.sanitizers tests/ops/test_nms.py -x     pytest tests/ops/test_nms.py -x for each

csrc/ops and csrc/cpu are built with GCC in build/sanitized (minutes at first, then incrementally), and the tests run in a
copy of the source tree with that library. The first error ends the process: pytest names the test, after the report of
the sanitizer. The CUDA kernels of every op, emulated on the CPU, run with the same sanitizers, and with checks for races
in shared and global memory and for reads of shared memory before it is written (tests/emu/check.cpp, check_global.cpp).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from tests.emu.build import SANITIZERS, build_library, sanitizer_environment

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "build" / "sanitized"
TREE = FOLDER / "tree"
COPIED = ("csrc", "ssd_ops", "tests", "pyproject.toml")
FLAGS = f"-O1 -g1 -fno-omit-frame-pointer {SANITIZERS}"
# Excludes other implementations, and tests that do not run kernels.
CPU_ONLY = "not [reference and not [emulated and not [cuda and not opcheck and not vec_math"
ALL_TESTS, PROPERTIES = ["tests/ops"], ["tests/ops/properties"]


def run_emulated(variant: str) -> bool:
    """Runs every op on emulated CUDA kernels of the variant `"sanitized"` or `"checked"`; returns whether all passed."""
    build_library(variant)
    variables = sanitizer_environment() if variant == "sanitized" else dict(os.environ)
    variables |= {"SSD_OPS_EMU_VARIANT": variant, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-W", "ignore", "-m", "tests.emu.op_cases"]
    done = subprocess.run(command, env=variables, cwd=ROOT, capture_output=True, text=True, timeout=600)
    ran = sum(line.endswith(": ran") for line in done.stdout.splitlines())
    passed = done.returncode == 0 and ran > 0
    if not passed:
        print(done.stdout + done.stderr)
    print(f"emulated CUDA kernels, {variant}: {f'{ran} cases passed' if passed else 'FAILED'}", flush=True)
    return passed


def build() -> None:
    """Builds the library and installs it into a fresh copy of the source tree."""
    for name in COPIED:
        source, copy = ROOT / name, TREE / name
        if source.is_dir():
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(source, copy, ignore=shutil.ignore_patterns("*.so", "__pycache__", "_not_built.txt"))
        else:
            shutil.copy(source, copy)
    definitions = {
        "CMAKE_BUILD_TYPE": "None",
        "CMAKE_CXX_FLAGS": FLAGS,
        "CMAKE_INSTALL_PREFIX": str(TREE / "ssd_ops"),
        "SSD_OPS_WERROR": "OFF",  # instrumentation causes additional warnings
    }
    configure = ["cmake", "-S", str(ROOT), "-B", str(FOLDER / "cmake"), "-G", "Ninja"]
    # GCC, whose sanitizer runtime is preloaded; a changed CMAKE_CXX_COMPILER would make CMake drop other definitions
    environment = {**os.environ, "SSD_OPS_CUDA": "0", "CXX": "g++"}
    options = [f"-D{name}={value}" for name, value in definitions.items()]
    subprocess.run([*configure, *options], check=True, env=environment, stdout=subprocess.DEVNULL)
    subprocess.run(["cmake", "--build", FOLDER / "cmake", "--parallel", str(cores())], check=True)
    subprocess.run(["cmake", "--install", FOLDER / "cmake"], check=True, stdout=subprocess.DEVNULL)


def cores() -> int:
    """Returns the number of cores that this process may use."""
    return len(os.sched_getaffinity(0))


def instruction_sets() -> list[str]:
    """Returns the instruction sets of this CPU, widest first."""
    code = "import ssd_ops; print(ssd_ops.build_info()['compiled']['isa_chosen'])"
    done = subprocess.run([sys.executable, "-c", code], env=environment(), cwd=TREE, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"The sanitized library does not load:\n{done.stderr}")
    names = ["baseline", "avx2", "avx512"]
    return names[names.index(done.stdout.split()[-1]) :: -1]


def environment(instruction_set: str = "") -> dict[str, str]:
    """Returns an environment that loads and requires the sanitized library."""
    return {
        **sanitizer_environment(),
        "SSD_OPS_REQUIRE": "1",
        "SSD_OPS_ISA": instruction_set,
        "OMP_NUM_THREADS": "2",
    }


def run(instruction_set: str, *arguments: str) -> bool:
    """Runs pytest with the sanitized library; returns whether all passed."""
    start = time.monotonic()
    print(f"\n{instruction_set}: pytest {' '.join(arguments)}", flush=True)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments, "-k", CPU_ONLY]
    code = subprocess.run(command, cwd=TREE, env=environment(instruction_set)).returncode
    print(f"{instruction_set}: {'passed' if code == 0 else 'FAILED'} in {time.monotonic() - start:.0f} s", flush=True)
    return code == 0


def main() -> int:
    """Runs the selected tests; returns the exit status."""
    passed = True
    if not sys.argv[1:]:
        passed &= run_emulated("sanitized") & run_emulated("checked")
    build()
    spread = ["-n", str(cores())]
    for index, name in enumerate(instruction_sets()):
        if sys.argv[1:] == ["--long"]:
            passed &= run(name, *PROPERTIES, "--hypothesis-profile=long", *spread)
        elif sys.argv[1:]:
            passed &= run(name, *sys.argv[1:])
        else:  # all tests for the first; the property tests, which cover most of the kernels, for the others
            passed &= run(name, *(ALL_TESTS if index == 0 else PROPERTIES), *spread)
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
