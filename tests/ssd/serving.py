"""A small detector, its server in this process, and images for the tests of `ssd serve`."""

from __future__ import annotations

import base64
import io
import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import torch
from PIL import Image

import ssd
from ssd.inference.detector import Detector
from ssd.serve.app import create_app
from ssd.serve.run import server
from ssd.serve.samples import drawn_samples
from ssd.serve.service import Service
from ssd.serve.settings import Settings
from tests.processes import free_port, run_python

ROOT = Path(__file__).resolve().parent.parent.parent
SCORE = 0.3  # of the detector with random weights, a threshold with some detections


def small_detector(seed: int = 1) -> Detector:
    torch.manual_seed(seed)
    model = ssd.build_model("ssd_tiny", 3, image_size=64, width=4, levels=2)
    return Detector(model.eval(), ("disc", "star"), True, {}, dtype=torch.float32)


def pixels(seed: int = 0, height: int = 40, width: int = 60) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def encoded(image: np.ndarray | Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    content = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(content, kind, **options)
    return content.getvalue()


def base64_of(content: bytes) -> str:
    return base64.b64encode(content).decode()


def service_of(*detectors: Detector, **settings: Any) -> Service:
    named = dict(zip("abc", detectors or (small_detector(),), strict=False))
    return Service(named, Settings(**settings))


@contextmanager
def running(service: Service) -> Iterator[int]:
    """Runs the server on loopback on a thread; yields its port."""
    ready = server(create_app(service, drawn_samples()), service.settings)
    ready.config.port = 0
    thread = threading.Thread(target=ready.run)
    thread.start()
    try:
        while not ready.started:
            assert thread.is_alive()
            time.sleep(0.01)
        yield ready.servers[0].sockets[0].getsockname()[1]
    finally:
        ready.should_exit = True
        thread.join()


@contextmanager
def client_of(service: Service) -> Iterator[httpx.Client]:
    """A client of a running server."""
    with running(service) as port, httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
        yield client


def write_checkpoint(folder: Path) -> Path:
    """A run folder of the small detector."""
    detector = small_detector()
    state = {"build_args": detector.model.build_args, "classes": ["disc", "star"], "model": detector.model.state_dict()}
    torch.save(state, folder / "last.pt")
    return folder


@dataclass
class Served:
    """A process of `ssd serve`; `ended` is set when it has ended."""

    port: int
    pid: int
    ended: subprocess.CompletedProcess[str] | None = None


_NOTE_PID_AND_SERVE = (
    "import os, sys; open(sys.argv[1], 'w').write(str(os.getpid())); "
    "from ssd.programs.serve import main; main(sys.argv[2:])"
)


@contextmanager
def serve_process(checkpoint: Path, *options: str, folder: Path = ROOT) -> Iterator[Served]:
    """Runs `ssd serve` in a folder, in a process on the CPU; ends it with SIGTERM."""
    with tempfile.TemporaryDirectory() as notes, ThreadPoolExecutor(1) as pool:
        noted, port = Path(notes) / "pid", free_port()
        arguments = [str(noted), str(checkpoint), *options, "--port", str(port), "--device", "cpu"]
        running = pool.submit(run_python, "-c", _NOTE_PID_AND_SERVE, *arguments, folder=folder)
        while True:
            assert not running.done(), running.result().stderr
            try:
                httpx.get(f"http://127.0.0.1:{port}/health", timeout=60)
                break
            except httpx.ConnectError:
                time.sleep(0.02)
        served = Served(port, int(noted.read_text()))
        try:
            yield served
        finally:
            if not running.done():
                os.kill(served.pid, signal.SIGTERM)
            served.ended = running.result()
