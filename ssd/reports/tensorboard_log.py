"""Losses and metrics of a run for TensorBoard, in the folder `tensorboard` of the run folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ssd.common.packages import is_installed


class TensorBoardLog:
    """Writes the rows of train.csv and eval.csv as scalars; an error is reported once and does not end the run.

    Nothing is written before `open`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._writer: Any = None

    def open(self, mode: str, step: int) -> None:
        """Starts a file of events, which hides those of earlier files after a step.

        Args:
            mode: "on", "off", or "auto": if TensorBoard is installed.
            step: Step from which training continues.
        """
        if mode == "off" or not is_installed("tensorboard"):
            return
        try:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(self.folder), purge_step=step + 1, flush_secs=30)
        except Exception as error:  # an installation may be broken in any way
            self._give_up(error)

    def add(self, table: str, row: dict[str, Any]) -> None:
        """Adds the numbers of a row of a table as `TABLE/COLUMN` at the row's step."""
        if self._writer is None:
            return
        try:
            for column, value in row.items():
                if column not in ("epoch", "step"):
                    self._writer.add_scalar(f"{table}/{column}", value, row["step"])
        except Exception as error:  # also of the thread that writes
            self._give_up(error)

    def flush(self) -> None:
        """Writes all rows to the disk."""
        if self._writer is None:
            return
        try:
            self._writer.flush()
        except Exception as error:
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        self._writer = None
        print(f"warning: nothing more is written for TensorBoard: {type(error).__name__}: {error}", flush=True)
