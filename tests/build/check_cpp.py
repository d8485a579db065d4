"""Installs the CMake package, builds docs/examples/cpp with it, and compares its detections with Python's.

    python -m tests.build.check_cpp

After `pip install -e .`, which leaves the objects of the library in build/cmake, this takes some 20 seconds of a core: to
compile the example and, by AOTInductor, a small network. A stage of CI; pytest does not run it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import ssd
from ssd.inference.detector import Detector
from ssd.programs.export import main as export

ROOT = Path(__file__).resolve().parents[2]
TOLERANCE = 1e-3  # of scores, and of coordinates in pixels


def run(*command: object) -> str:
    """Runs a command and returns what it prints; ends the program if it fails."""
    words = [str(word) for word in command]
    folders = os.pathsep.join([os.environ.get("PATH", ""), str(Path(sys.executable).parent)])  # as setup.py does
    done = subprocess.run(words, cwd=ROOT, env={**os.environ, "PATH": folders}, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"failed: {' '.join(words)}\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
    return done.stdout


def build_example(folder: Path) -> Path:
    """Returns the example, built with the installed package."""
    run("cmake", "-S", ".", "-B", "build/cmake", "-G", "Ninja")
    run("cmake", "--build", "build/cmake")
    run("cmake", "--install", "build/cmake", "--prefix", folder / "installed")
    torch_folder = Path(torch.__file__).parent
    options = [f"-DCMAKE_PREFIX_PATH={folder / 'installed'}", f"-DTORCH={torch_folder}"]
    run("cmake", "-S", "docs/examples/cpp", "-B", folder / "example", "-G", "Ninja", *options)
    run("cmake", "--build", folder / "example")
    return folder / "example" / "detect"


def write_run(folder: Path) -> Path:
    """Returns a run folder with a small network."""
    torch.manual_seed(1)
    model = ssd.build_model("ssd_tiny", 3, image_size=64, width=4, levels=2)
    state = {"build_args": model.build_args, "classes": ["disc", "star"], "model": model.state_dict()}
    torch.save(state, folder / "last.pt")
    return folder


def detections(detector: Detector, image: Path) -> np.ndarray:
    """Returns rows of label, score and box, as the example prints them."""
    found = detector.predict(image, score_threshold=detector.model.preset.score_threshold)
    assert not isinstance(found, list)
    return torch.cat([found.labels[:, None], found.scores[:, None], found.boxes], dim=1).numpy()


def main() -> None:
    """Builds, detects and compares."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        checkpoint = write_run(folder)
        export([str(checkpoint), str(folder / "model.pt2"), "--to", "aoti"])  # checks the package in Python
        random = np.random.default_rng(0)
        image = folder / "image.ppm"
        Image.fromarray(random.integers(0, 256, (90, 120, 3), dtype=np.uint8)).save(image)
        expected = detections(ssd.load(checkpoint, "cpu", dtype=torch.float32), image)
        printed = run(build_example(folder), folder / "model.pt2", image).splitlines()
        found = np.array([[float(word) for word in line.split()] for line in printed])
        if found.shape != expected.shape or len(found) == 0:
            sys.exit(f"C++ prints {len(found)} detections, Python finds {len(expected)}")
        difference = np.abs(found - expected).max()
        if not difference <= TOLERANCE:
            sys.exit(f"the detections of C++ and Python differ by {difference:.2g}, more than {TOLERANCE:g}")
        print(f"{len(found)} detections of C++ equal those of Python within {difference:.2g}")


if __name__ == "__main__":
    main()
