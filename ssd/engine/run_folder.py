"""The folder of a run: configuration, log, metrics as CSV, checkpoints, curves and pictures."""

from __future__ import annotations

import contextlib
import csv
import os
import platform
import re
import shlex
import sys
import traceback
from collections.abc import Callable
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch

import ssd_ops
from ssd.atomic_write import write_atomically, write_text
from ssd.config import TrainConfig
from ssd.config.resume_settings import record, run_folder_of
from ssd.console import how_to_run
from ssd.data.faults import FaultLog
from ssd.engine.distributed import World
from ssd.errors import ConfigError

if TYPE_CHECKING:
    from ssd.engine.step import State

_R = TypeVar("_R")
# A folder with nothing but these holds a run that ended before its first checkpoint; another one may take it.
_BEFORE_THE_FIRST = {"config.json", "train.csv", "log.txt", "last.pt.part"}


class RunFolder:
    """Names the files of a run and writes them; a file is replaced only when its successor is whole.

    `config.json` (what runs; `config.1.json`, ... what ran before a change by --resume), `log.txt`, `train.csv` (losses
    by step), `eval.csv` (AP by epoch), `loss.png`, `pr.png`, `detections.png`, `last.pt` and `best.pt`.

    Of several processes the first writes; the same calls on the others do nothing, or wait for it.
    """

    def __init__(self, path: Path, world: World | None = None) -> None:
        self.path = path
        self.world = world or World()
        self.thresholds: dict[str, float] = {}  # of the last evaluation: class -> score from which to show detections
        self.train_log = CsvLog(path / "train.csv", self.world.is_first)
        self.eval_log = CsvLog(path / "eval.csv", self.world.is_first)
        self.runs_code = False  # whether the configuration names a data set module:function
        self.failures: list[str] = []  # what has failed without ending the run

    @classmethod
    def open(cls, config: TrainConfig, world: World | None = None) -> RunFolder:
        """Choose the folder of a run: the one given, that of the run to resume, or a new one under runs/.

        What --test-only finds goes into a folder of its own, beside what training has found.
        """
        if config.output_dir:
            return cls(Path(config.output_dir), world)
        if config.resume:
            path = run_folder_of(config.resume)
            return cls(
                path / f"test-{re.sub(r'[^-+.=@0-9A-Za-z_]', '_', config.val_split)}" if config.test_only else path,
                world,
            )
        name = f"{config.model}-{config.dataset.replace(':', '.')}"
        path = next(path for n in count(1) if not (path := Path("runs") / f"{name}-{n}").exists())
        return cls(path if world is None else world.from_first(path), world)

    def check(self, config: TrainConfig) -> None:
        """Refuse a folder with something else in it, before anything is read or written.

        Raises:
            ConfigError: it is a file, or holds another run or other files.
        """
        if not self.world.is_first:
            return
        if self.path.exists() and not self.path.is_dir():
            raise ConfigError(f"--output-dir {self.path} must be a folder, got a file")
        parent = next(path for path in (self.path, *self.path.absolute().parents) if path.exists())
        if not os.access(parent, os.W_OK):
            raise ConfigError(
                f"--output-dir {self.path} cannot be written ({parent} is read-only); name another folder"
            )
        if not self.path.is_dir() or config.test_only:
            return
        if config.resume and run_folder_of(config.resume).resolve() == self.path.resolve():
            return
        names = {path.name for path in self.path.iterdir()}
        if "last.pt" in names:
            raise ConfigError(
                f"--output-dir {self.path} holds another run; go on with it by --resume {self.path}, or name another folder"
            )
        if foreign := sorted(names - _BEFORE_THE_FIRST):
            raise ConfigError(
                f"--output-dir {self.path} holds other files ({', '.join(foreign[:3])}{', ...' if foreign[3:] else ''}); "
                "name a new or an empty folder"
            )

    def start(self, config: TrainConfig, state: State) -> None:
        """Make the folder, write the configuration, and drop rows of steps that were lost and will be taken again."""
        if not self.world.is_first:
            return
        self.path.mkdir(parents=True, exist_ok=True)
        self.runs_code = ":" in config.dataset
        if not config.resume:
            for name in _BEFORE_THE_FIRST:
                (self.path / name).unlink(missing_ok=True)
        self._log(f"{datetime.now().astimezone():%Y-%m-%d %H:%M:%S %z} {environment()}: {shlex.join(sys.argv)}")
        if kept := record(config, self.path):
            self.say(f"the settings until now are kept as {kept.name}")
        self.train_log.drop(lambda row: row["step"] > state.step)
        self.eval_log.drop(lambda row: row["epoch"] > state.evaluated)

    def say(self, text: str) -> None:
        """Print a text and append it to log.txt."""
        print(text, flush=True)
        self._log(text)

    def _log(self, text: str) -> None:
        if self.world.is_first and self.path.is_dir():
            with contextlib.suppress(OSError), (self.path / "log.txt").open("a", encoding="utf-8") as file:
                file.write(text + "\n")

    def say_new_faults(self, log: FaultLog) -> None:
        """Name the training images that any process has met since the last call and could not use."""
        for faults in self.world.gather_on_first(log.faults)[1:]:
            for fault in faults:
                log.add(fault)
        if new := log.new_entries():
            self.say(f"training images that cannot be used, others took their place:\n{new}")

    def save(self, name: str, state: State) -> None:
        """Write a checkpoint that `ssd.engine.checkpoint.restore` and `build_model(**build_args)` can go on from.

        Raises:
            WriteError: the disk is full, ...; the checkpoint before is unchanged.
        """
        from ssd.engine.checkpoint import collect, random_streams, size_of

        streams = self.world.gather_on_first(random_streams())
        if self.world.is_first:
            checkpoint = {**collect(state, streams), "thresholds": self.thresholds}
            write_atomically(self.path / name, lambda file: torch.save(checkpoint, file), size_of(checkpoint))

    def saved_before(self) -> str:
        """Say which checkpoint there is, as a sentence before others."""
        path = self.path / "last.pt"
        return f"{path} was saved before it. " if path.is_file() else "No checkpoint was saved before it. "

    def how_to_go_on(self) -> str:
        """Say what is saved, and how the run goes on from it."""
        if not (self.path / "last.pt").is_file():
            return "no checkpoint has been saved yet"
        trust = " --trust-config" if self.runs_code else ""
        command = f"{how_to_run('train')} --resume {shlex.quote(str(self.path))}{trust}"
        return f"saved in {self.path / 'last.pt'}; go on by: {command}"

    def survive(
        self, what: str, work: Callable[[], _R], but: tuple[type[Exception], ...] = (BrokenPipeError,)
    ) -> _R | None:
        """Do work whose failure must not end the run, but for some errors; return None where it fails, and say so."""
        try:
            return work()
        except but:
            raise
        except Exception as error:
            file = self.path / f"failed-{what}.txt"
            if self.world.is_first:
                with contextlib.suppress(OSError):
                    write_text(file, "".join(traceback.format_exception(error)))
            first = (str(error).strip() or repr(error)).splitlines()[0][:300]
            self.say(f"warning: {what} failed, training goes on: {type(error).__name__}: {first} (traceback in {file})")
            self.failures.append(what)
            return None


def environment() -> str:
    """Say what a run runs on."""
    device = f"CUDA {torch.version.cuda}, {torch.cuda.get_device_name()}" if torch.cuda.is_available() else "no GPU"
    ops = ssd_ops.build_info()["backend"]
    return f"Python {platform.python_version()}, torch {torch.__version__}, ssd_ops {ops}, {device}, {platform.node()}"


class CsvLog:
    """Appends rows to a CSV file; the first row decides the columns."""

    def __init__(self, path: Path, writes: bool = True) -> None:
        self.path = path
        self.writes = writes  # else `add` does nothing, in processes that are not the first
        self.has_failed = False

    def add(self, row: dict[str, Any]) -> None:
        """Append one row, with a header if the file is new; a disk that takes no more rows does not end the run."""
        if not self.writes:
            return
        try:
            is_new = not self.path.exists()
            with self.path.open("a", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, fieldnames=list(row))
                if is_new:
                    writer.writeheader()
                writer.writerow({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()})
        except OSError as error:
            if not self.has_failed:
                print(f"warning: cannot write {self.path}: {error.strerror or error}; its rows are lost", flush=True)
            self.has_failed = True

    def rows(self) -> list[dict[str, float]]:
        """Read all rows back, as numbers; a row that was cut off, as by a kill, is left out."""
        return [numbers for _, numbers in self._rows()]

    def drop(self, is_lost: Callable[[dict[str, float]], bool]) -> None:
        """Remove the rows for which this holds."""
        if not self.writes or not self.path.exists():
            return
        header = self.path.read_text(encoding="utf-8").splitlines()[:1]
        kept = [line for line, numbers in self._rows() if not is_lost(numbers)]
        write_text(self.path, "".join(f"{line}\r\n" for line in [*header, *kept]))

    def _rows(self) -> list[tuple[str, dict[str, float]]]:
        if not self.path.exists():
            return []
        lines = self.path.read_text(encoding="utf-8", errors="replace").splitlines()
        found = []
        for line, row in zip(lines[1:], csv.reader(lines[1:]), strict=False):
            with contextlib.suppress(ValueError):
                found.append((line, dict(zip(next(csv.reader(lines[:1])), map(float, row), strict=True))))
        return found
