"""Number of epochs of a run, and which of them are evaluated."""

from __future__ import annotations

from ssd.config import TrainConfig


def epochs_of(config: TrainConfig, steps_per_epoch: int) -> int:
    """Returns the number of epochs: as configured, or enough for --iterations."""
    return -(-config.iterations // steps_per_epoch) if config.iterations else config.epochs


def is_evaluated(config: TrainConfig, epoch: int, epochs: int) -> bool:
    """Returns whether an epoch (counted from 1) is followed by an evaluation; the last one always is."""
    if epoch == epochs:
        return True
    return epoch in config.eval_epochs if config.eval_epochs else epoch % config.eval_every == 0
