"""No op reads memory that it has freed, tested with an allocator that overwrites freed memory."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

# The first chunk of candidates ends with fewer kept boxes than max_detections, so the image is scanned again after it.
SCRIPT = """
import torch, ssd_ops
from ssd_ops import reference

n = 20000
boxes = torch.tensor([[0.0, 0, 1, 1]]).repeat(1, n, 1)
boxes[:, n // 2 :] += 5
scores = torch.rand(1, n, 2, generator=torch.Generator().manual_seed(0))
scores[:, n // 2 :] *= 0.1
options = dict(score_threshold=0.0, iou_threshold=0.5, candidates_per_class=10**6, max_detections=9)
found = ssd_ops.multiclass_nms(boxes, scores, **options)
assert all(map(torch.equal, found, reference.multiclass_nms(boxes, scores, **options))), found.counts
"""


def test_sorted_chunks_of_candidates() -> None:
    if not torch._C._dispatch_has_kernel_for_dispatch_key("ssd_ops::box_iou", "CPU"):
        pytest.skip("no compiled library: ssd_ops runs on the reference")
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env={**os.environ, "MALLOC_PERTURB_": "165"},  # glibc writes this over what is freed
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"exit {done.returncode}: {done.stderr}"
