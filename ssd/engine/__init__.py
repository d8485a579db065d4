"""Training: loop, step, evaluation, checkpoints and run folder."""
