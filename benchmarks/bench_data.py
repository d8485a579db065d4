"""Training input pipeline, images per second on one core: decoding, SSD augmentation, and both with batching.

python benchmarks/bench_data.py [--quick] [--json FILE]

Two cases are the two halves of `--device-augmentation`: the worker decodes images, samples the augmentation and
packs the pixels; the device renders them. torchvision has no such mode: its worker runs all transforms in the first of
these cases, and its transforms run on the device in the second. On a GPU, the second case has 32 images per call, and a
last one compares `--device-jpeg` with a worker that decodes.

Each call processes 8 synthetic images of 500 x 375 with the power spectrum of photographs, saved as JPEG of about the
size of VOC's. The peer is torchvision's chain of v2 transforms on tensors, and the same chain on PIL images, which is the
default of its training script.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import _path  # noqa: F401
import torch
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors
from torchvision.io import decode_jpeg, read_file
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

import ssd_ops
from benchmarks import device_decoding
from benchmarks.harness import Case, main
from ssd.data import PackedImages, collate, read_image
from ssd.transforms import build_transforms

HEIGHT, WIDTH, COUNT = 375, 500, 8
FILL = (123, 117, 104)
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
_FOLDER = TemporaryDirectory()
Sample = tuple[Any, dict[str, Any]]


def cases(device: torch.device, quick: bool) -> list[Case]:
    """Returns the cases of this benchmark; a single augmentation for --quick."""
    count = 2 if quick else COUNT
    sides = (("ssd", 300),) if quick else (("ssd", 300), ("ssdlite", 320), ("hflip", 300))
    augments = [_augment_case(name, side, count) for name, side in sides]
    split = [_worker_case(count), _render_case(device, count if device.type == "cpu" else 4 * count)]
    on_device = [] if device.type == "cpu" else [_device_decode_case(device, 4 * count)]
    return [_decode_case(count), *augments, _pipeline_case(count), *split, *on_device]


def _decode_case(count: int) -> Case:
    candidates = {
        "ssd": lambda paths, _: [read_image(path) for path in paths],
        "torchvision": lambda paths, _: [_decode(path) for path in paths],
        "torchvision on PIL": lambda paths, _: [F.pil_to_tensor(Image.open(path).convert("RGB")) for path in paths],
    }
    return _case(
        f"decode JPEG, {WIDTH} x {HEIGHT}", lambda paths, targets: (paths, targets), candidates, _check_equal, count
    )


def _augment_case(name: str, side: int, count: int) -> Case:
    ours, chain = build_transforms(name, side, train=True), v2_chain(name, side)

    def make(paths: list[Path], targets: list[dict[str, Any]]) -> tuple[Any, ...]:
        images = [read_image(path) for path in paths]
        return images, [F.to_pil_image(image) for image in images], targets

    candidates = {
        "ssd": lambda images, _, targets: [ours(*sample) for sample in zip(images, targets, strict=True)],
        "torchvision": lambda images, _, targets: [chain(tv_tensors.Image(x), t) for x, t in zip(images, targets)],  # noqa: B905
        "torchvision on PIL": lambda _, images, targets: [chain(x, t) for x, t in zip(images, targets)],  # noqa: B905
    }
    return _case(
        f"augment {name}, {WIDTH} x {HEIGHT} to {side} x {side}", make, candidates, _check_samples(side), count
    )


def _pipeline_case(count: int) -> Case:
    side = 300
    candidates = _pipelines(side, deferred=False)

    def check(batch: Any, _: Any) -> None:
        assert batch.images.shape == (count, 3, side, side) and batch.images.dtype == torch.uint8
        assert bool((batch.gt_boxes >= 0).all() and (batch.gt_boxes <= 1).all())

    name = f"decode, augment ssd and collate, {WIDTH} x {HEIGHT} to {side} x {side}"
    return _case(name, lambda paths, targets: (paths, targets), candidates, check, count)


def _worker_case(count: int) -> Case:
    side = 300

    def check(batch: Any, _: Any) -> None:
        images = batch.images.render() if isinstance(batch.images, PackedImages) else batch.images
        assert images.shape == (count, 3, side, side) and bool((images >= 0).all() and (images <= 255).all())
        assert bool((batch.gt_boxes >= 0).all() and (batch.gt_boxes <= 1).all())

    name = f"decode, draw ssd and pack, {WIDTH} x {HEIGHT}, the pixels left to the device"
    return _case(name, lambda paths, targets: (paths, targets), _pipelines(side, deferred=True), check, count)


def _render_case(device: torch.device, count: int) -> Case:
    side = 300
    draw, chain = build_transforms("ssd", side, train=True, deferred=True), v2_chain("ssd", side)

    def make(paths: list[Path], targets: list[dict[str, Any]]) -> tuple[Any, ...]:
        images = [read_image(path) for path in paths]
        packed = collate([draw(*sample) for sample in zip(images, targets, strict=True)]).images
        return packed.to(device), [image.to(device) for image in images], targets

    def with_v2(_: PackedImages, images: list[Tensor], targets: list[dict[str, Any]]) -> tuple[Tensor]:
        samples = [chain(tv_tensors.Image(image), target) for image, target in zip(images, targets, strict=True)]
        return (F.normalize(torch.stack([image for image, _ in samples]).float(), MEAN, STD),)

    def with_reference(packed: PackedImages, *_: Any) -> Tensor:
        with patch.object(ssd_ops, "render_images", ssd_ops.reference.render_images):
            return packed.render(MEAN, STD)

    def check(result: Tensor | tuple[Tensor], expected: Tensor) -> None:
        if isinstance(result, tuple):  # another random sample has other pixels
            assert result[0].shape == expected.shape and bool(result[0].isfinite().all())
        else:
            assert torch.equal(result, expected), "not bit-equal"

    candidates = {
        "ssd": lambda packed, *_: packed.render(MEAN, STD),
        "reference": with_reference,
        "torchvision": with_v2,
    }
    name = f"render ssd, {count} images of {WIDTH} x {HEIGHT} to {side} x {side}, on the device"
    return _case(name, make, candidates, check, count, "reference")


def _device_decode_case(device: torch.device, count: int) -> Case:
    name = f"decode JPEG and pack, {count} images of {WIDTH} x {HEIGHT}, on the device"
    found = device_decoding.candidates(device, 300)
    return _case(name, lambda paths, targets: (paths, targets), found, device_decoding.check, count, "worker")


def _pipelines(side: int, *, deferred: bool) -> dict[str, Callable[..., Any]]:
    """Returns the candidates that load and batch image files."""
    ours, chain = build_transforms("ssd", side, train=True, deferred=deferred), v2_chain("ssd", side)

    def batch(load: Callable[[Path, dict[str, Any]], Sample]) -> Callable[..., Any]:
        return lambda paths, targets: collate([load(p, t) for p, t in zip(paths, targets, strict=True)])

    return {
        "ssd": batch(lambda path, target: ours(read_image(path), target)),
        "torchvision": batch(lambda path, target: chain(tv_tensors.Image(_decode(path)), target)),
        "torchvision on PIL": batch(lambda path, target: chain(Image.open(path).convert("RGB"), target)),
    }


def v2_chain(name: str, side: int) -> Callable[[Any, dict[str, Any]], Sample]:
    """Returns the augmentation of torchvision's reference training in v2 transforms, and the resize to the input size."""
    ssd = [v2.RandomPhotometricDistort(), v2.RandomZoomOut(fill=dict.fromkeys((tv_tensors.Image, Image.Image), FILL))]
    crop: list[Any] = {"ssd": [*ssd, v2.RandomIoUCrop()], "ssdlite": [v2.RandomIoUCrop()], "hflip": []}[name]
    clean = v2.SanitizeBoundingBoxes(labels_getter=lambda sample: (sample["labels"], sample["ignore"]))
    chain = v2.Compose([*crop, v2.RandomHorizontalFlip(), v2.Resize((side, side)), clean, v2.ToImage()])

    def call(image: Any, target: dict[str, Any]) -> Sample:
        boxes = tv_tensors.BoundingBoxes(target["boxes"], format="XYXY", canvas_size=(HEIGHT, WIDTH))
        sample = chain({**target, "image": image, "boxes": boxes})
        return sample.pop("image").as_subclass(Tensor), {**sample, "boxes": sample["boxes"].as_subclass(Tensor)}

    return call


def _case(
    name: str,
    make: Callable[..., Any],
    candidates: dict[str, Any],
    check: Callable[[Any, Any], None],
    count: int,
    check_against: str = "torchvision",
) -> Case:
    def inputs(generator: torch.Generator, _: torch.device) -> tuple[Any, ...]:
        return make([_photo(generator) for _ in range(count)], [_target(generator, i) for i in range(count)])

    return Case(name, inputs, candidates, check, check_against=check_against, items=count, item="image")


def _photo(generator: torch.Generator) -> Path:
    """Writes a JPEG of noise with the power spectrum and the color correlation of photographs."""
    down, across = torch.fft.fftfreq(HEIGHT)[:, None], torch.fft.rfftfreq(WIDTH)[None]
    frequency = (down**2 + across**2).sqrt()
    frequency[0, 0] = 1.0
    noise = torch.randn(3, HEIGHT, WIDTH, generator=generator)
    noise = 0.35 * noise + 1.2 * noise.mean(0, keepdim=True)
    values = torch.fft.irfft2(torch.fft.rfft2(noise) / frequency**1.2, s=(HEIGHT, WIDTH))
    pixels = (values / values.std() * 50 + 115).clamp(0, 255).round().to(torch.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(buffer, "jpeg", quality=90)
    path = Path(_FOLDER.name) / f"{len(list(Path(_FOLDER.name).iterdir()))}.jpg"
    path.write_bytes(buffer.getvalue())
    return path


def _target(generator: torch.Generator, image_id: int) -> dict[str, Any]:
    """Samples 3 objects of 40 to 240 pixels, about as many as an image of VOC has."""
    size = 40 + torch.rand(3, 2, generator=generator) * 200
    corner = torch.rand(3, 2, generator=generator) * (torch.tensor([WIDTH, HEIGHT]) - size)
    labels = torch.randint(1, 21, (3,), generator=generator)
    boxes = torch.cat([corner, corner + size], dim=1)
    return {"boxes": boxes, "labels": labels, "ignore": torch.zeros(3, dtype=torch.bool), "image_id": image_id}


def _decode(path: Path) -> Tensor:
    return decode_jpeg(read_file(str(path)))


def _check_equal(images: list[Tensor], expected: list[Tensor]) -> None:
    assert all(torch.equal(image, other) for image, other in zip(images, expected, strict=True)), "pixels differ"


def _check_samples(side: int) -> Callable[[Any, Any], None]:
    """Checks invariants of random samples; tests/ssd compares their distributions."""

    def check(samples: list[Sample], _: Any) -> None:
        for image, target in samples:
            assert image.shape == (3, side, side) and image.dtype == torch.uint8
            boxes = target["boxes"]
            assert len(boxes) == len(target["labels"]) == len(target["ignore"])
            assert bool((boxes >= 0).all() and (boxes <= side).all() and (boxes[:, 2:] > boxes[:, :2]).all())

    return check


if __name__ == "__main__":
    main(__doc__.splitlines()[0], cases, threads=1)
