"""How many epochs a run has, and which of them are evaluated."""

from __future__ import annotations

from ssd.config import TrainConfig


def epochs_of(config: TrainConfig, steps_per_epoch: int) -> int:
    """The epochs of a run: as configured, or as many as --iterations begins."""
    return -(-config.iterations // steps_per_epoch) if config.iterations else config.epochs


def is_evaluated(config: TrainConfig, epoch: int, epochs: int) -> bool:
    """Whether an evaluation follows an epoch, counted from 1; the last one always has one."""
    if epoch == epochs:
        return True
    return epoch in config.eval_epochs if config.eval_epochs else epoch % config.eval_every == 0
