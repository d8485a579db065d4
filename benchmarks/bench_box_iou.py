"""`box_iou`: ground truth against priors, and larger sets as in tracking or evaluation.

python benchmarks/bench_box_iou.py [--quick] [--json FILE]
"""

from __future__ import annotations

import _path  # noqa: F401
import torch
import torchvision

import ssd_ops
from benchmarks.harness import Case, main
from benchmarks.inputs import uniform_boxes


def cases(device: torch.device, quick: bool) -> list[Case]:
    """Returns the cases of this benchmark; small ones for --quick."""
    fresh = [(10, 8732)] if quick else [(10, 8732), (100, 8732), (1000, 8732), (5000, 5000)]
    reused = [(100, 1000)] if quick else [(100, 8732), (1000, 8732)]
    return [*(_fresh(n, m) for n, m in fresh), *(_reused(n, m, device) for n, m in reused)]


def _boxes(n: int, m: int):  # type: ignore[no-untyped-def]
    def make(generator: torch.Generator, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        return uniform_boxes(n, generator).to(device), uniform_boxes(m, generator).to(device)

    return make


def _fresh(n: int, m: int) -> Case:
    return Case(
        f"box_iou {n} x {m}, fresh output",
        _boxes(n, m),
        {
            "compiled": ssd_ops.box_iou,
            "reference": ssd_ops.reference.box_iou,
            "torchvision": torchvision.ops.box_iou,
        },
        _equal,
        bytes_moved=4 * n * m,
    )


def _reused(n: int, m: int, device: torch.device) -> Case:
    out = torch.empty(n, m, device=device)
    return Case(
        f"box_iou {n} x {m}, out=",
        _boxes(n, m),
        {
            "compiled": lambda a, b: ssd_ops.box_iou(a, b, out=out),
            "reference": ssd_ops.reference.box_iou,
            "torchvision": torchvision.ops.box_iou,
        },
        _equal,
        bytes_moved=4 * n * m,
    )


def _equal(result: torch.Tensor, expected: torch.Tensor) -> None:
    assert torch.equal(result, expected), f"largest difference {(result - expected).abs().max()}"


if __name__ == "__main__":
    main(__doc__.splitlines()[0], cases)
