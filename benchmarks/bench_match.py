"""`match_priors` with encoding: the ground truth of 32 images and the priors of SSD300.

python benchmarks/bench_match.py [--quick] [--json FILE]
"""

from __future__ import annotations

from typing import Any

import _path  # noqa: F401
import torch

import ssd_ops
from benchmarks.harness import Case, main
from benchmarks.inputs import ground_truths, ssd300_priors
from benchmarks.peers import match_and_encode


def cases(device: torch.device, quick: bool) -> list[Case]:
    """Returns the cases of this benchmark; small ones for --quick."""
    return [_case(2, 4, device)] if quick else [_case(32, objects, device) for objects in (8, 20, 100)]


def _case(batch: int, objects: int, device: torch.device) -> Case:
    priors = ssd300_priors().to(device)

    def make(generator: torch.Generator, device: torch.device) -> tuple[Any, ...]:
        boxes, labels = ground_truths(batch, objects, generator)
        boxes, labels = [b.to(device) for b in boxes], [x.to(device) for x in labels]
        packed = torch.arange(0, (batch + 1) * objects, objects, device=device)
        return boxes, labels, torch.cat(boxes), torch.cat(labels), packed

    def compiled(rule: str):  # type: ignore[no-untyped-def]
        return lambda _, __, boxes, labels, offsets: ssd_ops.match_priors(
            boxes, labels, priors, offsets=offsets, rule=rule
        )

    return Case(
        f"match_priors, batch {batch}, {objects} objects an image",
        make,
        {
            "compiled": compiled("last"),
            "compiled, greedy": compiled("greedy"),
            "reference": lambda _, __, boxes, labels, offsets: ssd_ops.reference.match_priors(
                boxes, labels, priors, offsets=offsets, rule="last"
            ),
            "torchvision": lambda boxes, labels, *_: match_and_encode(boxes, labels, priors),
        },
        _check,
        bytes_moved=batch * len(priors) * (8 + 8 + 16),
        input_sets=3,
    )


def _check(result: Any, expected: ssd_ops.PriorMatches) -> None:
    if isinstance(result, ssd_ops.PriorMatches) and not torch.equal(result.gt_index, expected.gt_index):
        # the greedy rule differs only where several objects have the same best prior
        differing = (result.gt_index != expected.gt_index).float().mean().item()
        assert differing < 0.01, f"{differing:.2%} of the matches differ"
        return
    labels, targets = (result.labels, result.loc_targets) if isinstance(result, ssd_ops.PriorMatches) else result
    assert torch.equal(labels, expected.labels), "labels differ"
    torch.testing.assert_close(targets, expected.loc_targets, rtol=1e-4, atol=2e-4)


if __name__ == "__main__":
    main(__doc__.splitlines()[0], cases)
