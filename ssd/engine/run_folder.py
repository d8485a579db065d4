"""The folder of a run: configuration, log, metrics as CSV, checkpoints and plots."""

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
from ssd.engine.folder_lock import lock_folder
from ssd.errors import ConfigError

if TYPE_CHECKING:
    from ssd.engine.step import State

_R = TypeVar("_R")
# A folder with only these files is of a run that ended before its first checkpoint, and may be reused.
_FILES_OF_UNSAVED_RUN = {"config.json", "train.csv", "log.txt", "last.pt.part", ".lock"}


class RunFolder:
    """Writes the files of a run atomically.

    These are `config.json` (and `config.1.json`, ... from before --resume changed settings), `log.txt`, `train.csv`
    (losses by step), `eval.csv` (AP by epoch), `loss.png`, `pr.png`, `detections.png`, `last.pt` and `best.pt`.

    Only rank 0 writes; the same calls on other processes do nothing, or wait for rank 0.
    """

    def __init__(self, path: Path, world: World | None = None) -> None:
        self.path = path
        self.world = world or World()
        self.thresholds: dict[str, float] = {}  # of the last evaluation: class -> minimum score to display a detection
        self.train_log = CsvLog(path / "train.csv", self.world.is_first)
        self.eval_log = CsvLog(path / "eval.csv", self.world.is_first)
        self.runs_code = False  # whether the data set is module:function
        self.failures: list[str] = []  # tasks that failed without ending the run

    @classmethod
    def open(cls, config: TrainConfig, world: World | None = None) -> RunFolder:
        """Selects the folder of a run: --output-dir, that of the run to resume, or a new one under runs/.

        The results of --test-only go into a subfolder of the run.
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
        """Checks that the folder can be used, before anything is read or written.

        Raises:
            ConfigError: It is a file, is read-only, or contains another run or other files.
        """
        if not self.world.is_first:
            return
        if self.path.exists() and not self.path.is_dir():
            raise ConfigError(f"--output-dir {self.path} must be a folder, got a file")
        parent = next(path for path in (self.path, *self.path.absolute().parents) if path.exists())
        if not parent.is_dir():
            raise ConfigError(f"--output-dir {self.path} must be below folders, but {parent} is a file; name another")
        if not os.access(parent, os.W_OK):
            raise ConfigError(f"--output-dir {self.path} cannot be written ({parent} is read-only); use another folder")
        if not self.path.is_dir() or config.test_only:
            return
        if config.resume and run_folder_of(config.resume).resolve() == self.path.resolve():
            return
        names = {path.name for path in self.path.iterdir()}
        if "last.pt" in names:
            raise ConfigError(
                f"--output-dir {self.path} contains another run; resume it with --resume {self.path}, or use another folder"
            )
        if foreign := sorted(names - _FILES_OF_UNSAVED_RUN):
            examples = ", ".join(foreign[:3]) + (", ..." if foreign[3:] else "")
            raise ConfigError(f"--output-dir {self.path} contains other files ({examples}); use a new or empty folder")

    def start(self, config: TrainConfig, state: State) -> None:
        """Creates the folder, writes the configuration, and removes rows of steps after the last checkpoint."""
        if not self.world.is_first:
            return
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock = lock_folder(self.path)  # until this process ends
        self.runs_code = ":" in config.dataset
        if not config.resume:
            for name in _FILES_OF_UNSAVED_RUN - {".lock"}:
                (self.path / name).unlink(missing_ok=True)
        self._append(f"{datetime.now().astimezone():%Y-%m-%d %H:%M:%S %z} {environment()}: {shlex.join(sys.argv)}")
        if previous := record(config, self.path):
            self.log(f"the previous settings were saved as {previous.name}")
        self.train_log.drop(lambda row: row["step"] > state.step)
        self.eval_log.drop(lambda row: row["epoch"] > state.evaluated)

    def log(self, text: str) -> None:
        """Prints a message and appends it to log.txt."""
        print(text, flush=True)
        self._append(text)

    def _append(self, text: str) -> None:
        if self.world.is_first and self.path.is_dir():
            with contextlib.suppress(OSError), (self.path / "log.txt").open("a", encoding="utf-8") as file:
                file.write(text + "\n")

    def log_new_faults(self, log: FaultLog) -> None:
        """Logs the training images that any process could not use since the last call."""
        for faults in self.world.gather_on_first(log.faults)[1:]:
            for fault in faults:
                log.add(fault)
        if new := log.new_entries():
            self.log(f"training images that cannot be used and were replaced by others:\n{new}")

    def save(self, name: str, state: State) -> None:
        """Writes a checkpoint for `ssd.engine.checkpoint.restore` and `build_model(**build_args)`.

        Raises:
            WriteError: The disk is full or similar; the previous checkpoint is unchanged.
        """
        from ssd.engine.checkpoint import collect, get_rng_state, num_bytes

        rng_states = self.world.gather_on_first(get_rng_state())
        if self.world.is_first:
            checkpoint = {**collect(state, rng_states), "thresholds": self.thresholds}
            write_atomically(self.path / name, lambda file: torch.save(checkpoint, file), num_bytes(checkpoint))

    def describe_saved(self) -> str:
        """Returns a sentence about the last saved checkpoint, for error messages."""
        path = self.path / "last.pt"
        return f"The last checkpoint is {path}. " if path.is_file() else "No checkpoint was saved before. "

    def describe_resume(self) -> str:
        """Returns which checkpoint was saved and the command that resumes the run."""
        if not (self.path / "last.pt").is_file():
            return "no checkpoint was saved"
        trust = " --trust-config" if self.runs_code else ""
        command = f"{how_to_run('train')} --resume {shlex.quote(str(self.path))}{trust}"
        return f"saved {self.path / 'last.pt'}; resume with: {command}"

    def try_task(
        self, name: str, task: Callable[[], _R], reraise: tuple[type[Exception], ...] = (BrokenPipeError,)
    ) -> _R | None:
        """Runs a task whose failure must not end the run.

        Args:
            name: Name of the task in the warning and in `failed-NAME.txt`, which gets the traceback.
            task: Function to call.
            reraise: Exceptions that do end the run.

        Returns:
            The result of the task, or None if it failed.
        """
        try:
            return task()
        except reraise:
            raise
        except Exception as error:
            file = self.path / f"failed-{name}.txt"
            if self.world.is_first:
                with contextlib.suppress(OSError):
                    write_text(file, "".join(traceback.format_exception(error)))
            first = (str(error).strip() or repr(error)).splitlines()[0][:300]
            self.log(
                f"warning: {name} failed, training continues: {type(error).__name__}: {first} (traceback in {file})"
            )
            self.failures.append(name)
            return None


def environment() -> str:
    """Returns the versions and the device of a run, as text."""
    device = f"CUDA {torch.version.cuda}, {torch.cuda.get_device_name()}" if torch.cuda.is_available() else "no GPU"
    ops = ssd_ops.build_info()["backend"]
    return f"Python {platform.python_version()}, torch {torch.__version__}, ssd_ops {ops}, {device}, {platform.node()}"


class CsvLog:
    """Appends rows to a CSV file; the first row determines the columns."""

    def __init__(self, path: Path, writes: bool = True) -> None:
        self.path = path
        self.writes = writes  # False on ranks other than 0
        self.has_failed = False

    def add(self, row: dict[str, Any]) -> None:
        """Appends a row, with a header if the file is new; a write error is reported once and does not end the run."""
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
        """Returns all rows as numbers, without incomplete ones, such as after a kill."""
        return [numbers for _, numbers in self._rows()]

    def drop(self, is_lost: Callable[[dict[str, float]], bool]) -> None:
        """Removes the rows for which a predicate is true."""
        if not self.writes or not self.path.exists():
            return
        header = self.path.read_text(encoding="utf-8", errors="replace").splitlines()[:1]
        try:
            kept = [line for line, numbers in self._rows() if not is_lost(numbers)]
        except KeyError as error:
            aside = self.path.replace(self.path.with_name(f"{self.path.name}.damaged"))
            print(f"warning: {self.path} has no column {error}; it is {aside.name} now, and new rows begin another")
            return
        write_text(self.path, "".join(f"{line}\r\n" for line in [*header, *kept]))

    def _rows(self) -> list[tuple[str, dict[str, float]]]:
        if not self.path.exists():
            return []
        lines = self.path.read_text(encoding="utf-8", errors="replace").splitlines()
        found = []
        for line in lines[1:]:
            with contextlib.suppress(ValueError, csv.Error):
                header, row = csv.reader((lines[0], line))
                found.append((line, dict(zip(header, map(float, row), strict=True))))
        return found
