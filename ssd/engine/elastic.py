"""Restarts by torchrun: with --max-restarts it starts the same command again after a process has died."""

from __future__ import annotations

import os
from itertools import count
from pathlib import Path

import torch.distributed as dist

from ssd.config import TrainConfig
from ssd.config.resume_settings import recorded_settings

_KEY = "ssd/run folder"  # in torchrun's store: the folder in which processes of this launch have saved a checkpoint


def after_restart(config: TrainConfig) -> TrainConfig:
    """Returns the configuration that resumes the run, if torchrun restarted its processes; else the same one.

    torchrun's store says which run it is. Files cannot: the folder may hold the finished run of an earlier command.
    """
    if not int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) or config.test_only:
        return config
    store = _store_of_torchrun()
    if store is None or not store.check([_KEY]):
        return config  # it died before its first checkpoint
    folder = Path(store.get(_KEY).decode())
    if config.output_dir and Path(config.output_dir).resolve() != folder.resolve():
        return config  # another run of a program that trains several
    if os.environ.get("RANK", "0") == "0":
        print(f"restarted by torchrun: resuming {folder}", flush=True)
    recorded = recorded_settings(folder) or {}
    return TrainConfig(**{**recorded, "output_dir": config.output_dir, "resume": str(folder), "quiet": config.quiet})


def announce_checkpoint(folder: Path) -> None:
    """Records for processes that torchrun may start later that this launch has saved a checkpoint in a run folder."""
    if (store := _store_of_torchrun()) is not None:
        store.set(_KEY, str(folder.absolute()))


def _store_of_torchrun() -> dist.Store | None:
    """Returns the key-value store of torchrun, which survives the processes that it restarts; None if there is none."""
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return None
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    return dist.TCPStore(address, port, is_master=False, wait_for_workers=False)


def run_name(config: TrainConfig) -> str:
    """Returns the name of a run without its number, as in runs/NAME-1."""
    return f"{config.model}-{config.dataset}".replace(":", ".").replace("/", ".")


def new_run(config: TrainConfig) -> Path:
    """Returns the folder of the next run of this name, which does not exist yet."""
    return next(path for n in count(1) if not (path := Path("runs") / f"{run_name(config)}-{n}").exists())
