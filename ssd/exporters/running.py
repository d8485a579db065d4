"""Exported files as functions of images, for their check and evaluation."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import ssd_ops
from ssd.common.errors import DataError
from ssd.exporters.network import INPUT, network_input
from ssd.inference.graph import Images
from ssd.inference.sources import Source, images_of, load_item

Program = Callable[[Tensor], ssd_ops.Detections]


def load_program(path: Path, kind: str) -> Program:
    """Returns an exported file as a function of images [B, 3, S, S], RGB float in 0..1.

    Args:
        path: File of `ssd export`, with its post-processing.
        kind: "onnx" (in ONNX Runtime on the CPU), "pt2" or "aoti".
    """
    if kind == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        return lambda images: ssd_ops.Detections(
            *(torch.from_numpy(result) for result in session.run(None, {INPUT: images.numpy()}))
        )
    run: Any
    if kind == "pt2":
        run = torch.export.load(path).module()
    else:
        run = torch._inductor.aoti_load_package(str(path))

    def detect(images: Tensor) -> ssd_ops.Detections:
        with torch.no_grad():
            return ssd_ops.Detections(*run(images))

    return detect


def detect_batches(program: Program, batches: Iterable[Images]) -> Iterator[ssd_ops.Detections]:
    """Yields the detections of batches of a data loader: uint8 tensors or packed images."""
    for images in batches:
        pixels = images.float() if isinstance(images, Tensor) else images.render()
        yield program(pixels / 255)


def network_inputs(
    source: Source, side: int, apply_exif: bool, limit: int, skipped: dict[str, str] | None = None
) -> Iterator[Tensor]:
    """Yields the first `limit` images of a source as [3, side, side] in 0..1, resized as `Detector.predict` does.

    Args:
        source: Source of `Detector.predict`.
        side: Input size of the network.
        apply_exif: Whether to apply the EXIF orientation.
        limit: Number of images.
        skipped: Gets file -> reason of images that cannot be read; None: they are errors.

    Raises:
        DataError: The source has no image, or one of them cannot be read.
    """
    for item in islice(images_of(source), limit):
        loaded = load_item(item, apply_exif)
        if loaded.image is None:
            if skipped is None:
                raise DataError(f"{loaded.file}: {loaded.error}")
            skipped[str(loaded.file)] = str(loaded.error)
            continue
        yield network_input(loaded.image, side)
