"""Builds the kernels with CMake. csrc/plan/build_plan.py determines what to build, CMakeLists.txt how."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import setuptools
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

if int(setuptools.__version__.split(".")[0]) < 77:  # as in new environments of Python 3.10 and 3.11
    raise SystemExit(
        f"\nssd_ops: setuptools {setuptools.__version__} is too old. Upgrade it (pip install --upgrade 'setuptools>=77'), "
        "or omit --no-build-isolation.\n"
    )
from setuptools.command.bdist_wheel import bdist_wheel

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT / "csrc" / "plan"))
from build_plan import Plan, find_cxx, find_torch, make_plan  # noqa: E402
from probe import BuildProblem, NoCompiler, command_words  # noqa: E402
from wheel_tag import platform_tag  # noqa: E402

LIBRARY = "libssd_ops.so"
REASON = "_not_built.txt"  # in ssd_ops/: why there is no compiled library, for the warning at import
OUTPUTS = (LIBRARY, "_build_info.json", REASON)
WITHOUT_KERNELS = os.environ.get("SSD_OPS_BACKEND") == "reference"


def find_program(name: str) -> str | None:
    """Returns the path of a program on PATH, or in the scripts folder of a virtual environment that is not activated."""
    return shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), str(Path(sys.executable).parent)]))


def cmake_is_recent() -> bool:
    """Returns whether CMake is recent enough for CMakeLists.txt."""
    program = find_program("cmake")
    printed = subprocess.run([program, "--version"], capture_output=True, text=True).stdout if program else ""
    return tuple(int(number) for number in re.findall(r"\d+", printed)[:2]) >= (3, 22)


def build_requirements() -> list[str]:
    """Returns the requirements of an isolated build, in addition to setuptools, that the machine does not have."""
    if WITHOUT_KERNELS:
        return []
    try:
        find_cxx(os.environ)
    except BuildProblem:
        return []  # nothing will be compiled
    wanted = {"cmake>=3.22": cmake_is_recent(), "ninja": find_program("ninja"), "torch>=2.11": find_torch()}
    return [name for name, present in wanted.items() if not present]


def parallel_jobs() -> str:
    """Returns the number of parallel compilers: MAX_JOBS, else one per core and per 2 GiB of free memory."""
    if requested := os.environ.get("MAX_JOBS"):
        return requested
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    meminfo = Path("/proc/meminfo")
    free = re.search(r"MemAvailable:\s+(\d+)", meminfo.read_text()) if meminfo.exists() else None
    return str(max(1, min(cores, int(free[1]) // (2 << 20) if free else cores)))


def run_cmake(plan: Plan, build: Path, target: Path) -> None:
    """Configures, compiles and installs into `target`; builds incrementally in `build` if its settings match."""
    cmake, ninja = find_program("cmake"), find_program("ninja")
    if not cmake or not ninja or not cmake_is_recent():
        raise BuildProblem(
            "cmake (3.22 or newer) or ninja is missing: pip install cmake ninja, or omit --no-build-isolation."
        )
    *launchers, compiler = command_words(plan.cxx)  # "ccache g++" is a launcher and a compiler
    flags = [word for word in shlex.split(plan.cxx) if word.startswith("-")]
    definitions = plan.definitions() | {
        "CMAKE_CXX_COMPILER": compiler,
        "CMAKE_CXX_COMPILER_LAUNCHER": ";".join(launchers),
        "CMAKE_CXX_FLAGS": " ".join([*flags, os.environ.get("CXXFLAGS", "")]),
        "CMAKE_MAKE_PROGRAM": ninja,
        "CMAKE_INSTALL_PREFIX": str(target),
        "SSD_OPS_WERROR": os.environ.get("SSD_OPS_WERROR", "0"),
    }
    # CMake cannot change these in an existing build folder; all other definitions can change.
    fixed = "\n".join([str(ROOT), compiler, plan.nvcc or "no nvcc", definitions.get("CMAKE_CUDA_HOST_COMPILER", "")])
    stamp = build / "made_with.txt"
    if build.exists() and not (stamp.exists() and stamp.read_text() == fixed):
        shutil.rmtree(build)
    build.mkdir(parents=True, exist_ok=True)
    stamp.write_text(fixed)
    options = [f"-D{name}={value}" for name, value in definitions.items()]
    subprocess.run([cmake, "-S", str(ROOT), "-B", str(build), "-G", "Ninja", *options], check=True)
    subprocess.run([cmake, "--build", str(build), "--parallel", parallel_jobs()], check=True)
    subprocess.run([cmake, "--install", str(build), "--component", "python"], check=True)


class CMakeBuild(build_ext):
    """Builds libssd_ops.so into the package: in the source tree for an editable install, else in the wheel."""

    def in_place(self) -> bool:
        return bool(self.inplace or getattr(self, "editable_mode", False))

    def target(self) -> Path:
        return (ROOT if self.in_place() else Path(self.build_lib).resolve()) / "ssd_ops"

    def run(self) -> None:
        target = self.target()
        target.mkdir(parents=True, exist_ok=True)
        try:
            plan = make_plan()
            cuda = f"CUDA for {', '.join(plan.architectures)}" if plan.nvcc else "CPU only"
            print(f"ssd_ops: torch {plan.torch.version} ({plan.torch.path}), {plan.cxx}, {cuda}.")
            print(f"ssd_ops: {plan.architecture_note or plan.cuda_note}", flush=True)
            run_cmake(plan, ROOT / "build" / "cmake", target)
            (target / REASON).unlink(missing_ok=True)
        except NoCompiler as problem:
            if not self.in_place() or os.environ.get("SSD_OPS_REQUIRE") == "1":
                # pip would cache a wheel without kernels, and install it again after a compiler was installed.
                raise SystemExit(
                    f"\nssd_ops: {problem} SSD_OPS_BACKEND=reference pip install ... installs the package without "
                    "kernels; it then runs on the PyTorch reference, which is slow.\n"
                ) from None
            self.install_reason(target, str(problem))
        except BuildProblem as problem:
            raise SystemExit(f"\nssd_ops: {problem}\n") from None
        except subprocess.CalledProcessError as error:
            raise SystemExit(
                f"\nssd_ops: {' '.join(error.cmd[:2])} failed with status {error.returncode}; see the messages "
                "of the compiler above.\n"
            ) from None

    def install_reason(self, target: Path, reason: str) -> None:
        """Removes an earlier library, and writes the reason to a file that `import ssd_ops` reads."""
        for output in self.built(target):
            output.unlink()
        (target / REASON).write_text(reason + "\n")
        print(f"ssd_ops: {reason} Until then it runs on the reference.", file=sys.stderr)

    def built(self, target: Path) -> list[Path]:
        return [path for pattern in OUTPUTS for path in sorted(target.glob(pattern))]

    def get_outputs(self) -> list[str]:
        return [str(path) for path in self.built(self.target())]

    def get_output_mapping(self) -> dict[str, str]:
        return {}

    def get_source_files(self) -> list[str]:
        return []


class Wheel(bdist_wheel):
    """Tags a wheel with kernels for every Python 3: the library contains nothing of Python."""

    def get_tag(self) -> tuple[str, str, str]:
        python, abi, platform = super().get_tag()
        if self.root_is_pure:
            return python, abi, platform
        return "py3", "none", platform_tag(Path(self.bdist_dir) / "ssd_ops" / LIBRARY, platform)


if __name__ == "__main__":
    setup(
        # without sources: CMakeBuild runs CMake
        ext_modules=[] if WITHOUT_KERNELS else [Extension("ssd_ops.libssd_ops", sources=[])],
        cmdclass={"build_ext": CMakeBuild, "bdist_wheel": Wheel},
        setup_requires=build_requirements(),
    )
