"""Restarts by torchrun: with --max-restarts it starts the same command again after a process has died."""

from __future__ import annotations

import os
from itertools import count
from pathlib import Path

from ssd.config import TrainConfig
from ssd.config.resume_settings import recorded_settings


def after_restart(config: TrainConfig) -> TrainConfig:
    """Returns the configuration that resumes the run, if torchrun restarted its processes; else the same one.

    Without --output-dir, the run is the last one of its name under runs/, which no other process may be training in.
    """
    if not int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) or config.resume or config.test_only:
        return config
    folder = Path(config.output_dir) if config.output_dir else last_run(config)
    if folder is None or not (folder / "last.pt").is_file():
        return config  # it died before its first checkpoint
    if os.environ.get("RANK", "0") == "0":
        print(f"restarted by torchrun: resuming {folder}", flush=True)
    recorded = recorded_settings(folder) or {}
    return TrainConfig(**{**recorded, "output_dir": config.output_dir, "resume": str(folder), "quiet": config.quiet})


def run_name(config: TrainConfig) -> str:
    """Returns the name of a run without its number, as in runs/NAME-1."""
    return f"{config.model}-{config.dataset}".replace(":", ".").replace("/", ".")


def new_run(config: TrainConfig) -> Path:
    """Returns the folder of the next run of this name, which does not exist yet."""
    return next(path for n in count(1) if not (path := Path("runs") / f"{run_name(config)}-{n}").exists())


def last_run(config: TrainConfig) -> Path | None:
    """Returns the folder of the last run of this name, or None."""
    number = int(new_run(config).name.rpartition("-")[2]) - 1
    return Path("runs") / f"{run_name(config)}-{number}" if number else None
