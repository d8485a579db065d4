"""`nms` and `batched_nms`: uniform and clustered boxes, and many classes.

python benchmarks/bench_nms.py [--quick] [--json FILE]

If powerboxes is installed (pip install powerboxes), its R-tree NMS is timed too; it keeps the same boxes. At 100,000
uniform boxes, where a call of torchvision takes half a minute, it is the only other candidate.
"""

from __future__ import annotations

from typing import Any

import _path  # noqa: F401
import torch
import torchvision

import ssd_ops
from benchmarks.harness import Case, main
from benchmarks.inputs import clustered_boxes, distinct_scores, uniform_boxes

try:
    import powerboxes
except ImportError:
    powerboxes = None

THRESHOLD = 0.5


def cases(device: torch.device, quick: bool) -> list[Case]:
    """Returns the cases of this benchmark; small ones for --quick."""
    uniform = (8, 100, 1_000) if quick else (8, 100, 1_000, 5_000, 20_000)
    crowded = (1_000,) if quick else (1_000, 20_000, 100_000)
    classes = (1_000,) if quick else (1_000, 10_000, 36_000)
    largest = () if quick or powerboxes is None or device.type != "cpu" else (100_000,)
    return [
        *(_nms("uniform", n) for n in (*uniform, *largest)),
        *(_nms("50 objects", n) for n in crowded),
        *(_batched(n) for n in classes),
    ]


def _boxes(kind: str, count: int, generator: torch.Generator) -> torch.Tensor:
    return uniform_boxes(count, generator) if kind == "uniform" else clustered_boxes(count, 50, generator)


def _nms(kind: str, count: int) -> Case:
    def make(generator: torch.Generator, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        return _boxes(kind, count, generator).to(device), distinct_scores(count, generator).to(device)

    candidates = {
        "compiled": lambda b, s: ssd_ops.nms(b, s, THRESHOLD),
        "reference": lambda b, s: ssd_ops.reference.nms(b, s, THRESHOLD),
        "torchvision": lambda b, s: torchvision.ops.nms(b, s, THRESHOLD),
    }
    if powerboxes is not None:
        candidates["powerboxes"] = _rtree
    if (kind, count) == ("uniform", 100_000):
        del candidates["reference"], candidates["torchvision"]
    return _case(f"nms, {count} boxes, {kind}", make, candidates, count)


def _rtree(boxes: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    kept = powerboxes.rtree_nms(boxes.cpu().numpy(), scores.double().cpu().numpy(), THRESHOLD, -1.0)
    return torch.from_numpy(kept.astype("int64")).to(boxes.device)


def _batched(count: int) -> Case:
    def make(generator: torch.Generator, device: torch.device) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        boxes, classes = _boxes("50 objects", count, generator), torch.randint(0, 90, (count,), generator=generator)
        return boxes.to(device), distinct_scores(count, generator).to(device), classes.to(device)

    candidates = {
        "compiled": lambda b, s, i: ssd_ops.batched_nms(b, s, i, THRESHOLD),
        "reference": lambda b, s, i: ssd_ops.reference.batched_nms(b, s, i, THRESHOLD),
        "torchvision": lambda b, s, i: torchvision.ops.batched_nms(b, s, i, THRESHOLD),
    }
    return _case(f"batched_nms, {count} boxes, 90 classes", make, candidates, count)


def _case(name: str, make: Any, candidates: dict[str, Any], count: int) -> Case:
    check_against = "reference" if "reference" in candidates else "powerboxes"
    return Case(name, make, candidates, _check, input_sets=2 if count >= 20_000 else 4, check_against=check_against)


def _check(result: torch.Tensor, expected: torch.Tensor) -> None:
    assert torch.equal(result, expected), f"{len(result)} boxes kept, {len(expected)} expected, or in another order"


if __name__ == "__main__":
    main(__doc__.splitlines()[0], cases)
