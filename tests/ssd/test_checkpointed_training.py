"""Tests that activation checkpointing does not change gradients."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import CheckpointImpl, checkpoint_wrapper
from torch.utils.checkpoint import checkpoint

from ssd.models import build_model

IMAGES = [torch.linspace(0, 1, 3 * 64 * 64).view(3, 64, 64)]
TARGETS = [{"boxes": torch.tensor([[4.0, 4, 40, 50]]), "labels": torch.tensor([1])}]


def losses(model: nn.Module) -> Tensor:
    return sum(model(IMAGES, TARGETS).values(), torch.zeros(()))


def checkpointed(model: nn.Module) -> Tensor:
    return checkpoint(losses, model, use_reentrant=False)


def wrapped(model: nn.Module) -> Tensor:
    return losses(checkpoint_wrapper(model, CheckpointImpl.NO_REENTRANT))


@pytest.mark.parametrize("way", [checkpointed, wrapped])
def test_activation_checkpointing_keeps_gradients(way: Callable[[nn.Module], Tensor]) -> None:
    torch.manual_seed(0)
    model = build_model("ssd_tiny", 3)
    parameters = list(model.parameters())
    expected = torch.autograd.grad(losses(model), parameters)
    found = torch.autograd.grad(way(model), parameters)
    assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))
