"""The benchmark of `ssd data pack` runs with little data and writes its report. Times are not asserted."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent


def test_report_of_a_quick_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    monkeypatch.setattr(sys, "argv", ["bench_shards.py", "--quick", "--json", str(tmp_path / "report.json")])
    from benchmarks import bench_shards

    bench_shards.main()
    report = json.loads((tmp_path / "report.json").read_text())
    assert {"cpu", "torch", "commit", "command"} <= set(report.pop("machine"))
    assert [title.split()[0] for title in report] == ["start", "memory", "reading,"]
    assert all(isinstance(value, float) for values in report.values() for value in values.values())
