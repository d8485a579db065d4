"""Fused optimizers that read their learning rates from GPU memory, so that a CUDA graph can capture a step."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

# Settings of param groups that select the implementation of a step. They depend on the device, not on the checkpoint.
_IMPLEMENTATION_KEYS = ("fused", "foreach", "capturable")


class DeviceRates:
    """Learning rates of an optimizer as GPU tensors, which its fused kernels read when they run.

    Outside of a step the param groups hold floats, so that schedules and checkpoints are equal on every device.

    Args:
        optimizer: Fused optimizer with all parameters on one GPU.
    """

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer
        self.values = [float(group["lr"]) for group in optimizer.param_groups]
        device = optimizer.param_groups[0]["params"][0].device
        self.tensors = [torch.full((), rate, dtype=torch.float32, device=device) for rate in self.values]

    def refresh(self) -> None:
        """Updates the tensors of rates that changed; call before each step, outside of a CUDA graph."""
        for i, group in enumerate(self.optimizer.param_groups):
            if group["lr"] != self.values[i]:
                self.values[i] = group["lr"]
                self.tensors[i].fill_(group["lr"])

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Puts the tensors into the param groups for one `step`, and sets `capturable` during a graph capture."""
        groups = self.optimizer.param_groups
        capturing = torch.cuda.is_current_stream_capturing()
        before: list[dict[str, Any]] = [{k: group[k] for k in ("lr", "capturable") if k in group} for group in groups]
        for group, rate in zip(groups, self.tensors, strict=True):
            group["lr"] = rate
            if "capturable" in group:
                group["capturable"] = capturing
        try:
            yield
        finally:
            for group, values in zip(groups, before, strict=True):
                group.update(values)


def keep_implementation_on_load(optimizer: torch.optim.Optimizer) -> None:
    """Makes `load_state_dict` keep the optimizer's implementation when a checkpoint is from another device or torch."""
    optimizer.register_load_state_dict_pre_hook(_keep_implementation)
    optimizer.register_load_state_dict_post_hook(_match_strides)


def _keep_implementation(optimizer: torch.optim.Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
    saved = state_dict["param_groups"]
    if len(saved) != len(optimizer.param_groups):
        return state_dict  # load_state_dict raises the error
    groups = [
        {**group, **{name: own[name] for name in _IMPLEMENTATION_KEYS if name in own}}
        for group, own in zip(saved, optimizer.param_groups, strict=True)
    ]
    return {**state_dict, "param_groups": groups}


def _match_strides(optimizer: torch.optim.Optimizer) -> None:
    # Fused kernels require the memory format of the weight; a checkpoint may be of a run without --channels-last.
    for weight, values in optimizer.state.items():
        for name, value in values.items():
            if isinstance(value, Tensor) and value.shape == weight.shape and value.stride() != weight.stride():
                values[name] = torch.empty_like(weight).copy_(value)
