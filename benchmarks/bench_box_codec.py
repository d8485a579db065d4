"""`encode_boxes` and `decode_boxes`: the boxes of a batch and the priors of SSD300.

python benchmarks/bench_box_codec.py [--quick] [--json FILE]
"""

from __future__ import annotations

import _path  # noqa: F401
import torch

import ssd_ops
from benchmarks.harness import Case, main
from benchmarks.inputs import ssd300_priors, uniform_boxes
from benchmarks.peers import CODER


def cases(device: torch.device, quick: bool) -> list[Case]:
    """Returns the cases of this benchmark; small ones for --quick."""
    batch = 1 if quick else 32
    priors = ssd300_priors().to(device)
    repeated = priors.repeat(batch, 1)  # torchvision needs one prior for each box
    moved = 4 * 4 * (2 * batch * len(priors) + len(priors))

    def boxes(generator: torch.Generator, device: torch.device) -> tuple[torch.Tensor]:
        return ((uniform_boxes(batch * len(priors), generator) / 1110).view(batch, -1, 4).to(device),)

    def deltas(generator: torch.Generator, device: torch.device) -> tuple[torch.Tensor]:
        return (torch.randn(batch, len(priors), 4, generator=generator).to(device),)

    return [
        Case(
            f"encode_boxes {batch} x {len(priors)}",
            boxes,
            {
                "compiled": lambda b: ssd_ops.encode_boxes(b, priors),
                "reference": lambda b: ssd_ops.reference.encode_boxes(b, priors),
                "torchvision": lambda b: CODER.encode_single(b.view(-1, 4), repeated),
            },
            _close,
            bytes_moved=moved,
        ),
        Case(
            f"decode_boxes {batch} x {len(priors)}",
            deltas,
            {
                "compiled": lambda d: ssd_ops.decode_boxes(d, priors),
                "reference": lambda d: ssd_ops.reference.decode_boxes(d, priors),
                "torchvision": lambda d: CODER.decode_single(d.view(-1, 4), repeated),
            },
            _close,
            bytes_moved=moved,
        ),
    ]


def _close(result: torch.Tensor, expected: torch.Tensor) -> None:
    # log and exp differ in the last bits between libraries, and torchvision multiplies where the others divide
    torch.testing.assert_close(result.view_as(expected), expected, rtol=1e-4, atol=2e-5)


if __name__ == "__main__":
    main(__doc__.splitlines()[0], cases)
