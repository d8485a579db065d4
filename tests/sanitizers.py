"""The op tests on CPU kernels and glue that are built with AddressSanitizer and UndefinedBehaviorSanitizer.

    python -m tests.sanitizers            the op tests, for each instruction set that this CPU has (a stage of .ci/run)
    python -m tests.sanitizers --long     above 100,000 property cases for each, new ones every time (some hours)
    python -m tests.sanitizers tests/ops/test_nms.py -x     with arguments: pytest tests/ops/test_nms.py -x for each

csrc/ops and csrc/cpu are built with GCC in build/sanitized (minutes, later only what has changed), and the tests run in
a copy of the tree whose library is that one. The first error ends the process that met it: pytest names the test, and
the report of the sanitizer stands above. The CUDA kernels have sanitizers of their own, see tests/emu.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from tests.emu.build import SANITIZERS, sanitizer_environment

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "build" / "sanitized"
TREE = FOLDER / "tree"
COPIED = ("csrc", "ssd_ops", "tests", "pyproject.toml")
FLAGS = f"-O1 -g1 -fno-omit-frame-pointer {SANITIZERS}"
# Tests of the other implementations, of the plain build's machine code, and what compares and traces without kernels.
CPU_ONLY = "not [reference and not [emulated and not [cuda and not no_contraction and not opcheck and not vec_math"
ALL_TESTS, PROPERTIES = ["tests/ops"], ["tests/ops/properties"]


def build() -> None:
    """Builds the library and puts it into a fresh copy of the tree."""
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
        "SSD_OPS_WERROR": "OFF",  # instrumented code gets warnings of its own
    }
    configure = ["cmake", "-S", str(ROOT), "-B", str(FOLDER / "cmake"), "-G", "Ninja"]
    # GCC, whose sanitizers' libraries are loaded first; as a definition, CMake would forget the others the second time
    environment = {**os.environ, "SSD_OPS_CUDA": "0", "CXX": "g++"}
    options = [f"-D{name}={value}" for name, value in definitions.items()]
    subprocess.run([*configure, *options], check=True, env=environment, stdout=subprocess.DEVNULL)
    subprocess.run(["cmake", "--build", FOLDER / "cmake", "--parallel", str(cores())], check=True)
    subprocess.run(["cmake", "--install", FOLDER / "cmake"], check=True, stdout=subprocess.DEVNULL)


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0))


def instruction_sets() -> list[str]:
    """Return the names of the instruction sets that this CPU has, the best first."""
    code = "import ssd_ops; print(ssd_ops.build_info()['compiled']['isa_chosen'])"
    done = subprocess.run([sys.executable, "-c", code], env=environment(), cwd=TREE, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"The sanitized library does not load:\n{done.stderr}")
    names = ["baseline", "avx2", "avx512"]
    return names[names.index(done.stdout.split()[-1]) :: -1]


def environment(instruction_set: str = "") -> dict[str, str]:
    """Return the environment in which the sanitized library is loaded, and must be."""
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
    """Runs the tests that were asked for; returns the exit status."""
    build()
    spread = ["-n", str(cores())]
    passed = True
    for place, name in enumerate(instruction_sets()):
        if sys.argv[1:] == ["--long"]:
            passed &= run(name, *PROPERTIES, "--hypothesis-profile=long", *spread)
        elif sys.argv[1:]:
            passed &= run(name, *sys.argv[1:])
        else:  # all tests once; for the others those that reach most of the kernels
            passed &= run(name, *(ALL_TESTS if place == 0 else PROPERTIES), *spread)
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
