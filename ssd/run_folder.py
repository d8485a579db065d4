"""The folder of a run: configuration, metrics as CSV, checkpoints, curves and pictures."""

from __future__ import annotations

import csv
import random
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ssd.config import ConfigError, TrainConfig
from ssd.distributed import World

if TYPE_CHECKING:
    from ssd.step import State


class RunFolder:
    """Names the files of a run and writes them; a file is replaced only when its successor is whole.

    `config.json` (what ran), `train.csv` (losses by step), `eval.csv` (AP by epoch), `loss.png`, `pr.png`,
    `detections.png`, `last.pt` and `best.pt`.

    Of several processes the first writes; the same calls on the others do nothing, or wait for it.
    """

    def __init__(self, path: Path, world: World | None = None) -> None:
        self.path = path
        self.world = world or World()
        self.thresholds: dict[str, float] = {}  # of the last evaluation: class -> score from which to show detections
        self.train_log = CsvLog(path / "train.csv", self.world.is_first)
        self.eval_log = CsvLog(path / "eval.csv", self.world.is_first)

    @classmethod
    def open(cls, config: TrainConfig, world: World | None = None) -> RunFolder:
        """Choose the folder of a run: the one given, that of the run to resume, or a new one under runs/."""
        if config.output_dir:
            return cls(Path(config.output_dir), world)
        if config.resume:
            resume = Path(config.resume)
            return cls(resume if resume.is_dir() else resume.parent, world)
        name = f"{config.model}-{config.dataset.replace(':', '.')}"
        path = next(path for n in count(1) if not (path := Path("runs") / f"{name}-{n}").exists())
        return cls(path if world is None else world.from_first(path), world)

    def start(self, config: TrainConfig) -> None:
        """Make the folder and write the configuration; a folder with another run in it is refused."""
        if not self.world.is_first:
            return
        if (self.path / "last.pt").exists() and not config.resume:
            raise ConfigError(
                f"--output-dir {self.path} holds another run; go on with it by --resume {self.path}, or name another folder"
            )
        self.path.mkdir(parents=True, exist_ok=True)
        config.save(self.path / "config.json")

    def save(self, name: str, state: State) -> None:
        """Write a checkpoint that `load` and `ssd.models.build_model(**build_args)` can go on from."""
        streams = self.world.gather_on_first(_random_state())
        if not self.world.is_first:
            return
        checkpoint = {
            **{part: value.state_dict() for part, value in state.parts().items()},
            "build_args": state.model.build_args,
            "classes": list(state.classes),
            "epoch": state.epoch,
            "step": state.step,
            "best": state.best,
            "random": streams,
        }
        temporary = self.path / (name + ".part")
        torch.save(checkpoint, temporary)
        temporary.replace(self.path / name)

    def load(self, source: str, state: State) -> None:
        """Go on from a checkpoint: weights, optimiser, schedule, loss scaler, running mean, epoch and random streams."""
        path = Path(source)
        path = path / "last.pt" if path.is_dir() else path
        if not path.is_file():
            raise ConfigError(f"--resume {source}: there is no checkpoint {path}")
        device = next(state.model.parameters()).device
        checkpoint = torch.load(path, map_location=device, weights_only=True)
        missing = [part for part in state.parts() if part not in checkpoint]
        if missing:
            raise ConfigError(
                f"--resume {path}: the checkpoint has no {', '.join(missing)}. If it is another system's, --weights "
                "takes its weights"
            )
        try:
            for part, value in state.parts().items():
                value.load_state_dict(checkpoint[part])
        except (RuntimeError, ValueError, KeyError) as error:
            raise ConfigError(f"--resume {path} does not fit this model and configuration: {error}") from error
        state.epoch, state.step, state.best = checkpoint["epoch"], checkpoint["step"], checkpoint["best"]
        streams = checkpoint["random"]
        if len(streams) == self.world.size:  # with another number of processes the order of images is another anyway
            _set_random_state(streams[self.world.rank])


class CsvLog:
    """Appends rows to a CSV file; the first row decides the columns."""

    def __init__(self, path: Path, writes: bool = True) -> None:
        self.path = path
        self.writes = writes  # else `add` does nothing, in processes that are not the first

    def add(self, row: dict[str, Any]) -> None:
        """Append one row, with a header if the file is new."""
        if not self.writes:
            return
        is_new = not self.path.exists()
        with self.path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, fieldnames=list(row))
            if is_new:
                writer.writeheader()
            writer.writerow({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()})

    def rows(self) -> list[dict[str, float]]:
        """Read all rows back, as numbers."""
        if not self.path.exists():
            return []
        with self.path.open(newline="", encoding="utf-8") as file:
            return [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]


def _random_state() -> dict[str, Any]:
    version, numbers, gauss = random.getstate()
    state: dict[str, Any] = {"torch": torch.get_rng_state(), "python": [version, list(numbers), gauss]}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def _set_random_state(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["torch"].cpu())
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    np.random.seed(torch.initial_seed() % 2**32)
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state_all([s.cpu() for s in state["cuda"]])
