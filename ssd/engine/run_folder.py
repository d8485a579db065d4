"""The folder of a run: configuration, log, metrics as CSV, checkpoints and plots."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import sys
import traceback
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar

import torch

from ssd.common.atomic_write import check_writable, write_atomically, write_text
from ssd.common.console import how_to_run
from ssd.common.errors import ConfigError
from ssd.config import TrainConfig
from ssd.config.resume_settings import record, run_folder_of
from ssd.data.faults import FaultLog
from ssd.engine.distributed import World
from ssd.engine.elastic import announce_checkpoint, new_run
from ssd.engine.folder_lock import lock_folder
from ssd.reports.csv_log import CsvLog
from ssd.reports.environment import environment, environment_line
from ssd.reports.tensorboard_log import TensorBoardLog
from ssd.reports.transcript import Transcript, as_utf8

if TYPE_CHECKING:
    from ssd.engine.step import State

_R = TypeVar("_R")
# A folder with only these files is of a run that ended before its first checkpoint, and may be reused.
_FILES_OF_UNSAVED_RUN = {
    *("config.json", "config.json.part", "train.csv", "log.txt", "train_batch.png", "train_batch.png.part"),
    *("environment.json", "environment.json.part"),
    *("last.pt.part", ".lock", "tensorboard"),
}


class RunFolder:
    """Writes the files of a run atomically.

    These are `environment.json`, `config.json` (and `config.1.json`, ... from before --resume changed settings),
    `log.txt`, `train.csv` (losses by step), `eval.csv` (AP by epoch), both in `tensorboard` where that is installed,
    `summary.html`, the images that it shows, `last.pt` and `best.pt`.

    Only rank 0 writes; the same calls on other processes do nothing, or wait for rank 0.
    """

    def __init__(self, path: Path, world: World | None = None) -> None:
        self.path = path
        self.world = world or World()
        self.thresholds: dict[
            str, float
        ] = {}  # class -> minimum score to display a detection, from the last evaluation
        self.tensorboard = TensorBoardLog(path / "tensorboard")
        self.train_log = CsvLog(path / "train.csv", self.world.is_first, self.tensorboard.add)
        self.eval_log = CsvLog(path / "eval.csv", self.world.is_first, self.tensorboard.add)
        self.runs_code = False  # whether the data set is module:function
        self.failures: list[str] = []  # tasks that failed without ending the run
        self.is_announced = False  # whether a restart by torchrun finds this run
        self.is_last = True  # whether the next evaluation is the last one
        self.transcript = Transcript(path / "log.txt", self.world.is_first)
        self._lock: IO[bytes] | None = None
        self._plots = ThreadPoolExecutor(max_workers=1)
        self._plotting: list[Future[Any]] = []

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
        path = new_run(config)
        return cls(path if world is None else world.from_first(path), world)

    def check(self, config: TrainConfig) -> None:
        """Checks that the folder can be used, before anything is read or written.

        Raises:
            ConfigError: It is a file, is read-only, or contains another run or other files.
        """
        if not self.world.is_first:
            return
        check_writable("--output-dir", self.path, is_folder=True)
        if not self.path.is_dir() or config.test_only:
            return
        if config.resume and run_folder_of(config.resume).resolve() == self.path.resolve():
            return
        names = {path.name for path in self.path.iterdir()}
        if "last.pt" in names:
            raise ConfigError(
                f"--output-dir {self.path} contains another run; resume it with --resume {shlex.quote(str(self.path))}, "
                "or use another folder"
            )
        if foreign := sorted(names - _FILES_OF_UNSAVED_RUN):
            examples = ", ".join(foreign[:3]) + (", ..." if foreign[3:] else "")
            unfinished = ", or delete this one of an unfinished run" if "config.json" in names else ""
            raise ConfigError(
                f"--output-dir {self.path} contains other files ({examples}); use a new or empty folder{unfinished}"
            )

    def start(self, config: TrainConfig, state: State) -> None:
        """Creates the folder, writes the configuration, and removes rows of steps after the last checkpoint."""
        if not self.world.is_first:
            return
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock = lock_folder(self.path)
        self.runs_code = ":" in config.dataset
        if not config.resume:
            for name in _FILES_OF_UNSAVED_RUN - {".lock", "tensorboard"}:
                (self.path / name).unlink(missing_ok=True)
            shutil.rmtree(self.tensorboard.folder, ignore_errors=True)
        self.transcript.start(
            f"{datetime.now().astimezone():%Y-%m-%d %H:%M:%S %z} {environment_line()}: {shlex.join(sys.argv)}"
        )
        if previous := record(config, self.path):
            self.log(f"the previous settings were saved as {previous.name}")
        about = json.dumps(environment(self.world.size), indent=2) + "\n"
        self.try_task("environment.json", lambda: write_text(self.path / "environment.json", as_utf8(about)))
        self.train_log.drop(lambda row: row["step"] > state.step)
        self.eval_log.drop(lambda row: row["epoch"] > state.evaluated)
        self.tensorboard.open(config.tensorboard, state.step)

    def close(self) -> None:
        """Unlocks the folder, so that another process may continue the run while this one has the object."""
        if self._lock is not None:
            self._lock.close()

    def log(self, text: str) -> None:
        """Prints a message and writes what was printed so far into log.txt."""
        print(text, flush=True)

    def log_details(self, text: str) -> None:
        """Writes a text into log.txt; prints it on a terminal and after the last epoch."""
        if self.is_last or sys.stdout.isatty():
            print(text, flush=True)
        else:
            self.transcript.note(text)

    def log_new_faults(self, log: FaultLog) -> None:
        """Logs the training images that any process could not use since the last call."""
        for faults in self.world.gather_on_first(log.faults)[1:]:
            for fault in faults:
                log.add(fault)
        if new := log.new_entries():
            self.log(f"warning: training images that cannot be used and were replaced by others:\n{new}")

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
            self.tensorboard.flush()
            if not self.is_announced:
                announce_checkpoint(self.path)
                self.is_announced = True

    def describe_saved(self) -> str:
        """Returns a sentence about the last saved checkpoint, for error messages."""
        path = self.path / "last.pt"
        return f"The last checkpoint is {path}. " if path.is_file() else "No checkpoint was saved before. "

    def describe_resume(self) -> str:
        """Returns which checkpoint was saved and the command that resumes the run."""
        if not (self.path / "last.pt").is_file():
            return "no checkpoint was saved"
        processes = int(os.environ.get("LOCAL_WORLD_SIZE", self.world.size))
        trust = " --trust-config" if self.runs_code else ""
        flags = f"--resume {shlex.quote(str(self.path))}{trust}"
        if self.world.size > processes:
            return f"saved {self.path / 'last.pt'}; resume with the same torchrun command on each machine and {flags}"
        return f"saved {self.path / 'last.pt'}; resume with: {how_to_run('train', processes)} {flags}"

    def plot_later(self, name: str, plot: Callable[[], None]) -> None:
        """Draws a plot as `try_task` would, on another thread: importing matplotlib alone may take many seconds."""
        self._plotting.append(self._plots.submit(self.try_task, name, plot))

    def wait_for_plots(self) -> None:
        """Returns when all plots are drawn."""
        plotting, self._plotting = self._plotting, []
        for plot in plotting:
            plot.result()

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
                    write_text(file, as_utf8("".join(traceback.format_exception(error))))
            first = (str(error).strip() or repr(error)).splitlines()[0][:300]
            self.log(
                f"warning: {name} failed, training continues: {type(error).__name__}: {first} (traceback in {file})"
            )
            self.failures.append(name)
            return None
