"""Number of epochs of a run, and which of them are evaluated."""

from __future__ import annotations

from ssd.common.errors import ConfigError
from ssd.config import TrainConfig


def epochs_of(config: TrainConfig, steps_per_epoch: int, epoch: int = 0, step: int = 0) -> int:
    """Returns the number of epochs: as configured, or enough for --iterations.

    Args:
        config: Configuration of the run.
        steps_per_epoch: Number of steps of each epoch to come.
        epoch: Number of completed epochs.
        step: Number of steps in them: not `epoch * steps_per_epoch` if they had another batch size, or if --iterations
            ended the last one early.
    """
    return epoch - -(config.iterations - step) // steps_per_epoch if config.iterations else config.epochs


def check_start_epoch(config: TrainConfig, steps_per_epoch: int) -> None:
    """Raises ConfigError if --start-epoch skips all epochs."""
    epochs = epochs_of(config, steps_per_epoch)
    if config.start_epoch >= epochs and not config.test_only:
        raise ConfigError(f"--start-epoch must be below the number of epochs, {epochs}, got {config.start_epoch}")


def is_evaluated(config: TrainConfig, epoch: int, epochs: int) -> bool:
    """Returns whether an epoch (counted from 1) is followed by an evaluation; the last one always is."""
    if epoch == epochs:
        return True
    return epoch in config.eval_epochs if config.eval_epochs else epoch % config.eval_every == 0


def describe_done(config: TrainConfig) -> str:
    """Returns the notice of a resumed run that has nothing left to do."""
    done, flag = (config.iterations, "--iterations") if config.iterations else (config.epochs, "--epochs")
    return f"all {done} {flag.strip('-')} are done; set a larger {flag} to continue"
