"""Optimizers on a GPU: fused kernels that read their learning rates there, so that a CUDA graph can hold a step."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

# Settings of param groups that say how a step is computed. They follow the device, not the checkpoint.
_IMPLEMENTATION = ("fused", "foreach", "capturable")


class DeviceRates:
    """The learning rates of an optimizer as tensors, which its fused kernels read when they run.

    The param groups hold numbers at all other times: schedules and checkpoints are the same on every device.

    Args:
        optimizer: Fused, all of its weights on one GPU.
    """

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer
        self.numbers = [float(group["lr"]) for group in optimizer.param_groups]
        device = optimizer.param_groups[0]["params"][0].device
        self.tensors = [torch.full((), rate, dtype=torch.float32, device=device) for rate in self.numbers]

    def refresh(self) -> None:
        """Write the rates that changed; before a step, outside of a CUDA graph."""
        for i, group in enumerate(self.optimizer.param_groups):
            if group["lr"] != self.numbers[i]:
                self.numbers[i] = group["lr"]
                self.tensors[i].fill_(group["lr"])

    @contextlib.contextmanager
    def in_place_of_numbers(self) -> Iterator[None]:
        """Let the optimizer's `step` read the tensors; while a CUDA graph is captured, groups also say they allow it."""
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


def follow_the_device(optimizer: torch.optim.Optimizer) -> None:
    """Make `load_state_dict` keep the optimizer's own kernels, whichever device or torch the checkpoint comes from."""
    optimizer.register_load_state_dict_pre_hook(_keep_implementation)
    optimizer.register_load_state_dict_post_hook(_share_strides)


def _keep_implementation(optimizer: torch.optim.Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
    saved = state_dict["param_groups"]
    if len(saved) != len(optimizer.param_groups):
        return state_dict  # which load_state_dict refuses
    groups = [
        {**group, **{name: own[name] for name in _IMPLEMENTATION if name in own}}
        for group, own in zip(saved, optimizer.param_groups, strict=True)
    ]
    return {**state_dict, "param_groups": groups}


def _share_strides(optimizer: torch.optim.Optimizer) -> None:
    # Fused kernels refuse momentum in another memory format than the weight's, as of a run without --channels-last.
    for weight, values in optimizer.state.items():
        for name, value in values.items():
            if isinstance(value, Tensor) and value.shape == weight.shape and value.stride() != weight.stride():
                values[name] = torch.empty_like(weight).copy_(value)
