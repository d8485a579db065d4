"""Checks the source distribution and the wheel that `python -m build` made of a checkout (a stage of .ci/run).

python tests/build/check_dist.py DIST    # needs auditwheel
"""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MAX_BYTES = 20_000_000
BUILD_FILES = ("CMakeLists.txt", "LICENSE", "README.md", "pyproject.toml", "setup.py", "ssd_launcher.py")


def check_sdist(sdist: Path) -> None:
    """Exits if the source distribution lacks a file that a build needs, or has one of the tests."""
    with tarfile.open(sdist) as archive:
        files = {name.partition("/")[2] for name in archive.getnames()}
    sources = [path for folder in ("csrc", "ssd", "ssd_ops") for path in (ROOT / folder).rglob("*") if path.is_file()]
    ignored = (".pyc", ".so", ".png")  # .png: of the guides
    wanted = {str(path.relative_to(ROOT)) for path in sources if path.suffix not in ignored}
    wanted -= {"ssd_ops/_build_info.json", "ssd_ops/_not_built.txt"}
    if missing := sorted((wanted | set(BUILD_FILES)) - files):
        sys.exit(f"{sdist.name} lacks {', '.join(missing)}")
    if surplus := sorted(name for name in files if name.startswith("tests") or name.endswith(".so")):
        sys.exit(f"{sdist.name} contains {', '.join(surplus)}")


def check_wheel(wheel: Path) -> None:
    """Exits if the wheel has another library than the checkout, is too large, or has not the most general tag."""
    library = "ssd_ops/libssd_ops.so"
    with zipfile.ZipFile(wheel) as archive:
        if archive.read(library) != (ROOT / library).read_bytes():
            sys.exit(f"{library} of {wheel.name} is not the one of the checkout, which the tests have run with")
    report = subprocess.run(["auditwheel", "show", "--json", wheel], capture_output=True, text=True, check=True)
    symbols = json.loads(report.stdout)["sym_tag"]
    print(f"{wheel.name}: {wheel.stat().st_size / 1e6:.1f} MB, symbols of {symbols}")
    if not wheel.name.endswith(f"-py3-none-{symbols}.whl"):
        sys.exit("its name must end with the tag that its symbols allow: csrc/plan/wheel_tag.py")
    if wheel.stat().st_size > MAX_BYTES:
        sys.exit(f"it must have at most {MAX_BYTES / 1e6:.0f} MB: choose fewer architectures in TORCH_CUDA_ARCH_LIST")


if __name__ == "__main__":
    dist = Path(sys.argv[1])
    (sdist,), (wheel,) = dist.glob("*.tar.gz"), dist.glob("*.whl")
    check_sdist(sdist)
    check_wheel(wheel)
