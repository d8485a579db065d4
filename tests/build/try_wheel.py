"""Tries an installed wheel, in any folder and without a compiler (a stage of .ci/run): contents, ops, detector, training.

cd /tmp && python CHECKOUT/tests/build/try_wheel.py
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import torch

import ssd
import ssd_ops

ROOT = Path(__file__).resolve().parents[2]


def check_contents() -> None:
    """Exits if the packages are not those of the installation, or lack a file of the checkout."""
    for package in (ssd, ssd_ops):
        assert package.__file__ is not None
        home = Path(package.__file__).parent
        if home.is_relative_to(ROOT):
            sys.exit(f"{package.__name__} is imported from {home}, which is not the installation")
        source = ROOT / package.__name__
        files = {path.relative_to(source) for path in source.rglob("*") if path.is_file()}
        wanted = {path for path in files if path.suffix not in (".pyc", ".so", ".png") and path.name[:2] != "_n"}
        if missing := sorted(str(path) for path in wanted if not (home / path).exists()):
            sys.exit(f"The wheel lacks {', '.join(missing)} of {package.__name__}")


def check_ops() -> None:
    """Exits if the kernels are missing, or if an op differs from its reference."""
    info = ssd_ops.build_info()
    if info["backend"] != "compiled" or not info["compiled"]["isa_chosen"]:
        sys.exit(f"The ops are not compiled: {info}")
    torch.manual_seed(0)
    boxes, scores = torch.rand(500, 4), torch.rand(500)
    boxes[:, 2:] += boxes[:, :2]
    classes = torch.randint(0, 5, (500,))
    calls = {"box_iou": (boxes, boxes[:50]), "nms": (boxes, scores, 0.5), "batched_nms": (boxes, scores, classes, 0.5)}
    for name, arguments in calls.items():
        if not torch.equal(getattr(ssd_ops, name)(*arguments), getattr(ssd_ops.reference, name)(*arguments)):
            sys.exit(f"{name} differs from its reference")


def check_detector() -> None:
    """Exits if a small detector does not learn or does not detect."""
    model = ssd.build_model("ssd_tiny", num_classes=3)
    images = [torch.rand(3, 100, 120)] * 2
    targets = [{"boxes": torch.tensor([[10.0, 20.0, 60.0, 80.0]]), "labels": torch.tensor([1])}] * 2
    optimizer = torch.optim.SGD(model.parameters(), lr=0.001)
    losses = []
    for _ in range(3):
        loss = sum(model(images, targets).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    if not losses[-1] < losses[0]:
        sys.exit(f"Three steps of training did not lower the loss: {losses}")
    found = model.eval()(images)[0]
    if set(found) != {"boxes", "scores", "labels"} or not bool(torch.isfinite(found["boxes"]).all()):
        sys.exit(f"The detector returns {found}")


if __name__ == "__main__":
    if compiler := shutil.which("c++") or shutil.which("nvcc"):
        print(f"Note: {compiler} is on PATH, so this does not show that no compiler is needed.")
    check_contents()
    check_ops()
    check_detector()
    info = ssd_ops.build_info()
    print(f"The wheel works under torch {info['torch']} and Python {info['python']}: {info['compiled']}")
