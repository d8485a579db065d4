"""A small detector, its server in this process, and images for the tests of `ssd serve`."""

from __future__ import annotations

import base64
import io
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
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

SCORE = 0.3  # of the detector with random weights, a threshold with some detections


def small_detector(seed: int = 1, classes: tuple[str, ...] = ("disc", "star")) -> Detector:
    torch.manual_seed(seed)
    model = ssd.build_model("ssd_tiny", len(classes) + 1, image_size=64, width=4, levels=2)
    return Detector(model.eval(), classes, True, {})


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
