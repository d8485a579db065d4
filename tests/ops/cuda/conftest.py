"""Fixtures of the GPU tests."""

from __future__ import annotations

import pytest
import torch

from tests.ops.cuda.calls import CALLS, Call

has_kernels = torch.cuda.is_available() and torch._C._dispatch_has_kernel_for_dispatch_key("ssd_ops::box_iou", "CUDA")


@pytest.fixture
def gpu() -> torch.device:
    """A GPU that the ops have kernels for."""
    if not torch.cuda.is_available():
        pytest.skip("there is no GPU")
    if not has_kernels:
        pytest.skip("no compiled CUDA kernels: ssd_ops runs on the reference")
    return torch.device("cuda", 0)


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def device(request: pytest.FixtureRequest) -> torch.device:
    """The CPU, where the body of the test runs without what only a GPU has, and a GPU."""
    return request.getfixturevalue("gpu") if request.param == "cuda" else torch.device("cpu")


@pytest.fixture(params=CALLS, ids=lambda call: call.name)
def call(request: pytest.FixtureRequest) -> Call:
    """One call of every batched op."""
    return request.param
