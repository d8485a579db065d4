"""Time from the command `ssd train` to its first batch, and where it goes: imports, data, model, loading.

python benchmarks/start_times.py [--data-path FOLDER] [--runs 3] [--flags "--model NAME"] [--device cuda] [--json FILE]

Each run is a new process that ends after its first step; the first one may find files that no cache holds yet. Without
--data-path it trains on 300 generated images. `host` is the time of the process's CPU until the first batch.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import _path  # noqa: F401

# What takes long to import and, but for torch, is not needed before the first step of most runs.
WATCHED = ("torch", "torch._dynamo", "torch._inductor", "sympy", "triton", "torchvision", "tensorboard", "matplotlib")
WATCHED += ("scipy", "pandas", "onnx")
PARTS = {  # functions of a run that are timed, by module
    "ssd.engine.preparation": ("choose_device", "open_datasets", "choose_settings", "make_model", "make_state"),
    "ssd.engine.loop": ("prepare", "check_before_training"),
}


class FirstStep(BaseException):
    """Ends a run after its first step; no handler of errors catches it."""


class Imports(MetaPathFinder):
    """Measures how long the imports of some modules take, with all that they import."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._looking: set[str] = set()

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        """Returns the specification that the other finders return, with a loader that measures."""
        if name not in WATCHED or name in self._looking:
            return None
        self._looking.add(name)
        try:
            spec = find_spec(name)
        finally:
            self._looking.discard(name)
        if spec is not None and spec.loader is not None:
            spec.loader.exec_module = _timed(spec.loader.exec_module, self.seconds, name)  # type: ignore[method-assign]
        return spec


def _timed(call: Callable[..., Any], seconds: dict[str, float], name: str) -> Callable[..., Any]:
    def timed(*arguments: Any, **options: Any) -> Any:
        began = time.perf_counter()
        try:
            return call(*arguments, **options)
        finally:
            seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - began

    return timed


def child(began: float, path: Path, command: list[str]) -> None:
    """Runs a training until its first step, and writes when it came and what took how long to a file."""
    found: dict[str, Any] = {"python": time.time() - began}
    imports, parts = Imports(), dict[str, float]()
    sys.meta_path.insert(0, imports)

    def first_step(config: Any, state: Any, batch: Any) -> None:
        found.update(first_batch=time.time() - began, host=time.process_time())
        step(config, state, batch)
        if state.model.priors.is_cuda:
            torch.cuda.synchronize()
        found.update(first_step=time.time() - began, imports=imports.seconds, parts=parts)
        path.write_text(json.dumps(found), encoding="utf-8")
        raise FirstStep

    import torch

    found["torch"] = time.time() - began
    from ssd import train
    from ssd.engine import loop

    found["ssd"] = time.time() - began
    step, loop.train_step = loop.train_step, first_step
    for module, names in PARTS.items():
        for name in names:
            setattr(sys.modules[module], name, _timed(getattr(sys.modules[module], name), parts, name))
    try:
        train.main(command)
    except FirstStep:
        pass


def measure(data: Path, device: str, flags: list[str]) -> dict[str, Any]:
    """Returns the seconds from the command until Python ran, torch and ssd were imported, first batch and first step.

    Raises:
        RuntimeError: The run failed; the message ends with its output.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "found.json"
        fixed = ["--data-path", str(data), "--device", device, "--pictures", "0", "--output-dir", f"{folder}/run"]
        command = [sys.executable, __file__, "--child", repr(time.time()), str(path), *fixed, *flags]
        done = subprocess.run(command, capture_output=True, text=True)
        if not path.exists():
            raise RuntimeError(f"exit status {done.returncode}: {(done.stdout + done.stderr).strip()[-1000:]}")
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return found


@contextmanager
def data_of(given: Path | None) -> Any:
    """Yields the folder of the data: the given one, or 300 generated images of 640 x 480 with 10 objects each."""
    if given is not None:
        yield given.resolve()
        return
    import numpy as np
    from PIL import Image

    random = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        for split, count in (("train", 240), ("val", 60)):
            lines = []
            for name in (f"{split}{i}.jpg" for i in range(count)):
                pixels = random.integers(0, 256, (24, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).resize((640, 480)).save(Path(folder) / name, quality=90)
                corners, sizes = random.integers(0, 300, (10, 2)), random.integers(30, 180, (10, 2))
                lines += [
                    f"{name},{x},{y},{x + w},{y + h},thing\n" for (x, y), (w, h) in zip(corners, sizes, strict=True)
                ]
            (Path(folder) / f"{split}.csv").write_text("image,xmin,ymin,xmax,ymax,label\n" + "".join(lines))
        yield Path(folder)


def main() -> None:
    """Measures the runs."""
    if sys.argv[1:2] == ["--child"]:
        child(float(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:])
        return
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data-path", type=Path, help="data set (default: generated)")
    parser.add_argument("--device", default="auto", help="as of ssd train (default: auto)")
    parser.add_argument("--runs", type=int, default=3, help="number of runs (default: 3)")
    parser.add_argument("--flags", default="", help="more flags of every run")
    parser.add_argument("--json", type=Path, help="write machine, command and all rows to this file")
    arguments = parser.parse_args()
    from benchmarks.saving import saving  # without torch: the first run shall be the first process to import it

    rows: list[dict[str, Any]] = []
    report: dict[str, Any] = {"machine": {}, "rows": rows}
    with data_of(arguments.data_path) as data, saving(arguments.json, report) as measuring:
        for run in range(arguments.runs):
            with measuring(f"run {run + 1}"):
                rows.append({"name": f"run {run + 1}", **measure(data, arguments.device, arguments.flags.split())})
                print(_text(rows[-1]), flush=True)
            if run == 0:
                with measuring("machine"):
                    report["machine"] = _machine(arguments.device)


def _machine(device: str) -> dict[str, Any]:
    import torch

    from benchmarks.machine import describe

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return describe(torch.device(device), torch.get_num_threads())


def _text(row: dict[str, Any]) -> str:
    def listed(seconds: dict[str, float]) -> str:
        return ", ".join(f"{name} {value:.2f}" for name, value in sorted(seconds.items(), key=lambda each: -each[1]))

    moments = {name: value for name, value in row.items() if isinstance(value, float)}
    return f"{row['name']}: {listed(moments)} s\n  imports: {listed(row['imports'])}\n  parts: {listed(row['parts'])}"


if __name__ == "__main__":
    main()
