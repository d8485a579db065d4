"""JPEG decoding on the training device against workers that decode, for bench_data.py: from files to packed pixels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ssd.data import PackedImages, read_image
from ssd.data.loading.device_decoder import DeviceDecoder
from ssd.data.loading.encoded_images import EncodedImage, EncodedImages
from ssd.data.loading.images import decode_jpegs, read_header
from ssd.transforms import build_transforms

Targets = list[dict[str, Any]]


def candidates(device: torch.device, side: int) -> dict[str, Callable[[list[Path], Targets], Any]]:
    """Returns functions of image files and their targets, which leave the pixels on a device.

    `ssd` is `--device-jpeg`, with the part of its workers in this process; `worker` decodes on this core, as without
    that option; `torchvision` only decodes.
    """
    draw = build_transforms("ssd", side, train=True, deferred=True)
    decoder: DeviceDecoder | None = None

    def drawn(images: list[Any], targets: Targets) -> list[Any]:
        torch.manual_seed(0)  # the same crops for both
        return [draw(image, target)[0] for image, target in zip(images, targets, strict=True)]

    def on_device(paths: list[Path], targets: Targets) -> PackedImages:
        nonlocal decoder
        decoder = decoder or DeviceDecoder(device)
        return decoder(EncodedImages.of(drawn([encoded(path) for path in paths], targets)))

    return {
        "ssd": on_device,
        "worker": lambda paths, targets: PackedImages.of(drawn([read_image(p) for p in paths], targets)).to(device),
        "torchvision": lambda paths, _: decode_jpegs([encoded(path).content for path in paths], device),
    }


def encoded(path: Path) -> EncodedImage:
    """Reads a JPEG file without decoding it."""
    return EncodedImage(torch.from_numpy(np.fromfile(path, dtype=np.uint8)), read_header(path).size(False), 1)


def check(result: PackedImages | list[Tensor], expected: PackedImages) -> None:
    """Checks that the rendered images are those of the worker, but for the rounding of another decoder."""
    if isinstance(result, PackedImages):
        assert torch.equal(result.crops, expected.crops), "other crops"
        difference = float((result.render() - expected.render()).abs().mean())
        assert difference < 3, f"pixels differ by {difference:.2f} on average"
    else:
        assert len(result) == len(expected.offsets), "images are missing"
