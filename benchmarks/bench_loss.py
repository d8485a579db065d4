"""`multibox_loss` and its gradient: SSD300 with up to 91 classes and batch size 32.

python benchmarks/bench_loss.py [--quick] [--json FILE]
"""

from __future__ import annotations

from typing import Any

import _path  # noqa: F401
import torch
from torch import Tensor

import ssd_ops
from benchmarks.harness import Case, main
from benchmarks.inputs import ground_truths, ssd300_priors
from benchmarks.peers import compute_loss


def cases(device: torch.device, quick: bool) -> list[Case]:
    """Returns the cases of this benchmark; small ones for --quick."""
    return [
        _case(batch, classes, backward, device)
        for batch, classes in (((1, 21),) if quick else ((8, 21), (8, 91), (32, 91)))
        for backward in (False, True)
    ]


def _case(batch: int, classes: int, backward: bool, device: torch.device) -> Case:
    priors = ssd300_priors().to(device)

    def make(generator: torch.Generator, device: torch.device) -> tuple[Any, ...]:
        boxes, labels = ground_truths(batch, 8, generator)
        boxes, labels = [b.to(device) for b in boxes], [(x % (classes - 1) + 1).to(device) for x in labels]
        matches = ssd_ops.match_priors(boxes, labels, priors, rule="last")
        loc = torch.randn(batch, len(priors), 4, generator=generator).to(device)
        logits = torch.randn(batch, len(priors), classes, generator=generator).to(device)
        targets = [{"boxes": b, "labels": x} for b, x in zip(boxes, labels, strict=True)]
        return loc.requires_grad_(backward), logits.requires_grad_(backward), matches, targets

    def ours(op):  # type: ignore[no-untyped-def]
        return lambda loc, logits, m, _: _with_gradient(op(loc, logits, m.loc_targets, m.labels), loc, logits)

    def peer(loc: Tensor, logits: Tensor, m: ssd_ops.PriorMatches, targets: list[dict[str, Tensor]]) -> Any:
        losses = compute_loss(loc, logits, targets, [priors] * batch, list(m.gt_index))
        return _with_gradient((losses["bbox_regression"], losses["classification"]), loc, logits)

    floats = batch * len(priors) * (classes + 4)
    return Case(
        f"multibox_loss {'forward + backward' if backward else 'forward'}, {batch} x {len(priors)} x {classes}",
        make,
        {
            "compiled": ours(ssd_ops.multibox_loss),
            "reference": ours(ssd_ops.reference.multibox_loss),
            "torchvision": peer,
        },
        _check,
        bytes_moved=4 * floats * (2 if backward else 1),
        input_sets=2,
    )


def _with_gradient(losses: tuple[Tensor, Tensor], loc: Tensor, logits: Tensor) -> tuple[Tensor, ...]:
    if not loc.requires_grad:
        return losses
    return *losses, *torch.autograd.grad(losses[0] + losses[1], (loc, logits))


def _check(result: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> None:
    # torchvision sums in float32 and orders ties differently: another hard negative changes whole rows of the gradient.
    for value, target in zip(result[:2], expected[:2], strict=True):
        torch.testing.assert_close(value, target, rtol=1e-4, atol=1e-5)
    for value, target in zip(result[2:], expected[2:], strict=True):
        apart = (value - target).abs()
        assert apart.sum() <= 1e-3 * target.abs().sum() + 1e-6, f"gradients differ by {apart.sum():g} in total"


if __name__ == "__main__":
    main(__doc__.splitlines()[0], cases)
