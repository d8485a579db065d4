"""Tests of the tables of a run: rows with other columns, and rows that a kill cut off."""

from __future__ import annotations

from pathlib import Path

from ssd.reports.csv_log import CsvLog


def test_row_with_other_columns_adds_its_columns(tmp_path: Path) -> None:
    log = CsvLog(tmp_path / "eval.csv")
    log.add({"epoch": 1, "AP50": 0.5, "cat, big": 0.25})
    log.add({"AP50": 0.75, "epoch": 2, "AP75": 0.5})  # a resumed run with another metric
    log.drop(lambda row: row["epoch"] > 2)
    assert log.rows() == [{"epoch": 1, "AP50": 0.5, "cat, big": 0.25}, {"epoch": 2, "AP50": 0.75, "AP75": 0.5}]
    assert log.path.read_bytes() == b'epoch,AP50,"cat, big",AP75\r\n1,0.5,0.25,\r\n2,0.75,,0.5\r\n'


def test_row_without_its_end_is_dropped(tmp_path: Path) -> None:
    log = CsvLog(tmp_path / "eval.csv")
    log.path.write_bytes(b"epoch,AP50\r\n1,0.5\r\n2,")
    assert log.rows() == [{"epoch": 1, "AP50": 0.5}]
    log.drop(lambda row: row["epoch"] > 2)
    log.add({"epoch": 2, "AP50": 0.75})
    assert log.path.read_bytes() == b"epoch,AP50\r\n1,0.5\r\n2,0.75\r\n"
