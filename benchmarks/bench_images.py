"""`render_images`: crop, resize, flip and normalize uint8 images into a batch, with crops like those of SSD augmentation.

python benchmarks/bench_images.py [--quick] [--json FILE] [--device cuda]
"""

from __future__ import annotations

from typing import Any

import _path  # noqa: F401
import torch
from torch import Tensor
from torchvision.transforms import functional as tv

import ssd_ops
from benchmarks.harness import Case, main

MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


def cases(device: torch.device, quick: bool) -> list[Case]:
    """Returns the cases of this benchmark; a small one for --quick."""
    if quick:
        return [_case(2, 60, antialias=True)]
    return [_case(32, 300, antialias=True), _case(32, 300, antialias=False), _case(32, 512, antialias=True)]


def _case(batch: int, size: int, *, antialias: bool) -> Case:
    def make(generator: torch.Generator, device: torch.device) -> tuple[Any, ...]:
        sides = [(375, 500) if i % 3 else (500, 333) for i in range(batch)]
        images = [torch.randint(0, 256, (3, *side), generator=generator).to(torch.uint8).to(device) for side in sides]
        heights, widths = torch.tensor(sides).T
        fractions = torch.rand(4, batch, generator=generator)
        wide, high = (((0.3 + 0.7 * s) * side).long() for s, side in zip(fractions[:2], (widths, heights), strict=True))
        left, top = ((widths - wide) * fractions[2]).long(), ((heights - high) * fractions[3]).long()
        crops = torch.stack([left, top, left + wide, top + high], dim=1)
        flip = torch.rand(batch, generator=generator) < 0.5
        on_device = torch.cat([image.flatten() for image in images]), crops.float().to(device), flip.to(device)
        starts = torch.tensor([0, *(3 * h * w for h, w in sides)]).cumsum(0)[:-1].to(device)
        return images, crops.tolist(), flip.tolist(), *on_device, starts, torch.tensor(sides).to(device)

    def render(function: Any, dtype: torch.dtype = torch.float32) -> Any:
        options = {"antialias": antialias, "mean": MEAN, "std": STD, "dtype": dtype}
        return lambda _, __, ___, pixels, crops, flip, starts, sides: function(
            pixels, crops, size, offsets=starts, sizes=sides, flip=flip, **options
        )

    def chain(images: list[Tensor], crops: list[list[int]], flip: list[bool], *_: Tensor) -> tuple[Tensor]:
        out = []
        for image, (x1, y1, x2, y2), flipped in zip(images, crops, flip, strict=True):
            patch = tv.resized_crop(image, y1, x1, y2 - y1, x2 - x1, [size, size], antialias=antialias)
            patch = tv.hflip(patch) if flipped else patch
            out.append(tv.normalize(patch.float(), MEAN, STD))
        return (torch.stack(out),)

    candidates = {
        "compiled": render(ssd_ops.render_images),
        "compiled, float16": render(ssd_ops.render_images, torch.float16),
        "reference": render(ssd_ops.reference.render_images),
        "torchvision": chain,
    }
    name = f"render_images, batch {batch}, size {size}{'' if antialias else ', no antialias'}"
    return Case(name, make, candidates, _check, input_sets=2, items=batch, item="image")


def _check(result: Tensor | tuple[Tensor], expected: Tensor) -> None:
    if isinstance(result, Tensor):
        assert torch.equal(result, expected.to(result.dtype)), "not bit-equal"
        return
    # torchvision rounds to bytes after the resize (with antialias after each direction), by up to 1 in all.
    torch.testing.assert_close(result[0], expected, rtol=0, atol=1.25 / min(STD))


if __name__ == "__main__":
    main(__doc__.splitlines()[0], cases)
