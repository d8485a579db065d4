"""One fixture runs every op test over all implementations: reference, compiled for the CPU, emulated CUDA, CUDA."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import ssd_ops
from tests.emu import emulated_ops
from tests.ops import remembered

NAMES = ("reference", "cpu", "emulated", pytest.param("cuda", marks=pytest.mark.cuda))


class Implementation:
    """The public functions of one implementation; tensors go to its device and results come back to the CPU."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.device = torch.device("cuda" if name == "cuda" else "cpu")
        self._functions = remembered.reference if name == "reference" else ssd_ops

    def __repr__(self) -> str:
        return self.name

    def __getattr__(self, function: str) -> Callable[..., Any]:
        op = getattr(self._functions, function)

        def call(*args: Any, **kwargs: Any) -> Any:
            moved = [_to(value, self.device) for value in args]
            options = {key: _to(value, self.device) for key, value in kwargs.items()}
            return _to(op(*moved, **options), torch.device("cpu"))

        return call


def _to(value: Any, device: torch.device) -> Any:
    if isinstance(value, torch.Tensor):
        is_plain = value.layout is torch.strided and not value.is_nested
        is_moved = value.requires_grad or value.device.type == device.type
        return _moved(value, device) if is_plain and not is_moved else value.to(device)
    if isinstance(value, (list, tuple)):
        moved = [_to(v, device) for v in value]
        return type(value)(*moved) if hasattr(value, "_fields") else type(value)(moved)
    return value


def _moved(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Moves a tensor with its whole storage, so that a view keeps its strides and its alignment."""
    count = tensor.untyped_storage().nbytes() // tensor.element_size()
    whole = tensor.as_strided((count,), (1,), 0).to(device)
    return whole.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())


def has_compiled_kernels() -> bool:
    return torch._C._dispatch_has_kernel_for_dispatch_key("ssd_ops::box_iou", "CPU")


@pytest.fixture(autouse=True)
def _same_random_numbers() -> None:
    """A test draws the same inputs for each implementation, alone and among others."""
    torch.manual_seed(0)


@pytest.fixture(params=NAMES)
def impl(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Implementation:
    """An implementation of all ops."""
    name = request.param
    if name == "cpu" and not has_compiled_kernels():
        pytest.skip("no compiled library: ssd_ops runs on the reference")
    if name == "cuda" and not torch.cuda.is_available():
        pytest.skip("there is no GPU")
    if name == "cuda" and not torch._C._dispatch_has_kernel_for_dispatch_key("ssd_ops::box_iou", "CUDA"):
        pytest.skip("no compiled CUDA kernels: ssd_ops runs on the reference")
    if name == "emulated":
        monkeypatch.setattr(torch.ops, "ssd_ops", emulated_ops())
    return Implementation(name)
