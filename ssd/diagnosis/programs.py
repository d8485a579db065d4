"""Versions of the programs and packages that matter here."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ssd.diagnosis.findings import Section

# Distribution -> (module, what it is for)
OPTIONAL = {
    "faster-coco-eval": ("faster_coco_eval", "COCO's metrics faster than by pycocotools"),
    "onnx": ("onnx", "export to ONNX"),
    "onnxscript": ("onnxscript", "export to ONNX"),
    "onnxruntime": ("onnxruntime", "running exported ONNX files"),
    "safetensors": ("safetensors", "weights as .safetensors"),
    "supervision": ("supervision", "detections for supervision's annotators and trackers"),
    "tensorboard": ("tensorboard", "losses and metrics of a run for TensorBoard"),
    "pillow-heif": ("pillow_heif", "HEIC photographs"),
    "av": ("av", "reading and drawing videos"),
    "fastapi": ("fastapi", 'the server; "ssd_ops[serve]" installs all that it needs'),
    "timm": ("timm", "backbones of timm"),
}
REQUIRED = ("torch", "torchvision", "numpy", "pillow", "pycocotools", "matplotlib", "pyyaml", "tqdm")


def examine() -> Section:
    """Returns the versions of Python, packages, compilers and driver."""
    section = Section()
    facts = section.facts
    facts["python"] = platform.python_version()
    facts["system"] = platform.platform()
    facts["ssd_ops"] = version("ssd_ops")
    for name in REQUIRED:
        facts[name] = version(name)
        if facts[name] is None and name != "torch":
            section.problem(f"the package {name} is not installed", f"pip install {name}")
    facts["optional"] = {name: version(name, module) for name, (module, _) in OPTIONAL.items()}
    for name, found in facts["optional"].items():
        if found is None:
            section.hint(f"{name} is not installed ({OPTIONAL[name][1]})", f"pip install {name}")
    facts["compiler"] = _first_line(os.environ.get("CXX", "").split() or find("c++", "g++", "clang++"))
    facts["nvcc"] = nvcc_version()
    _look_for_namesakes(section)
    return section


def version(distribution: str, module: str | None = None) -> str | None:
    """Returns the version of an installed distribution; "unknown" of a module without one, or None if there is none."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "unknown" if module is not None and find_spec(module) else None


def find(*names: str) -> list[str]:
    """Returns the first of some programs that is on PATH, as the first word of a command; [] without any."""
    return next(([path] for name in names if (path := shutil.which(name))), [])


def nvcc_version() -> str | None:
    """Returns the release of the CUDA compiler, or None if there is none."""
    homes = [os.environ[name] for name in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(name)]
    wanted = [
        os.environ.get("CUDACXX", ""),
        *(f"{home}/bin/nvcc" for home in homes),
        "nvcc",
        "/usr/local/cuda/bin/nvcc",
    ]
    words = find(*filter(None, wanted))
    release = re.search(r"release ([\d.]+)", output([*words, "--version"])) if words else None
    return release[1] if release else None


def output(command: list[str]) -> str:
    """Returns what a program prints; "" where it fails or hangs."""
    try:
        answer = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return answer.stdout if answer.returncode == 0 else ""


def _first_line(command: list[str]) -> str | None:
    lines = output([*command, "--version"]).splitlines() if command else []
    return lines[0] if lines else None


def _look_for_namesakes(section: Section) -> None:
    # Another distribution named ssd overwrites this project's files; a file ssd.py in the working folder hides them.
    facts: dict[str, Any] = section.facts
    facts["package"] = str(Path(__file__).resolve().parent.parent)
    if (found := version("ssd")) is not None:
        section.problem(
            f"another project, ssd {found}, is installed, with a package of the same name",
            "pip uninstall ssd, then pip install --force-reinstall --no-deps ssd_ops",
        )
    if Path("ssd.py").is_file():
        section.problem(
            f"{Path('ssd.py').absolute()} hides the package ssd from programs that are started in this folder",
            "rename it, or start programs elsewhere (the command `ssd` works here too)",
        )
