"""Tests the benchmark of `ssd serve` on servers that are forked instead of started, which takes seconds."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("httpx")

from benchmarks import http_load
from tests.ssd.serving import serve_process

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent.parent


@contextmanager
def forked(checkpoint: Path, options: Sequence[str], threads: int) -> Iterator[int]:
    assert options[-2] == "--batch-size"
    with serve_process(checkpoint, *options) as served:
        yield served.port


def test_report_has_rates_percentiles_and_batches_of_both_servers(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    from benchmarks import bench_serve

    monkeypatch.setattr(bench_serve, "started", forked)
    monkeypatch.setattr(bench_serve, "copy_bandwidth", lambda device: 1e9)
    arguments = ["--quick", "--device", "cpu", "--threads", "1", "--json", str(tmp_path / "report.json")]
    monkeypatch.setattr(sys, "argv", ["bench_serve.py", *arguments])
    bench_serve.main()
    timings = json.loads((tmp_path / "report.json").read_text())["cases"]["serve, ssd_tiny, 8 clients"]
    assert timings["batch 1"]["batches"].keys() == {"1"} and timings["batch 1"]["ratio"] == 1
    for timing in timings.values():
        assert sum(timing["batches"].values()) == timing["samples"] >= 24
        assert 0 < timing["low"] <= timing["median"] <= timing["high"]
        assert timing["median"] <= timing["percentile_90"] <= timing["percentile_99"]
    assert max(map(int, timings["batches"]["batches"])) > 1
    assert "requests/s, p90" in capsys.readouterr().out


def test_answer_of_another_image_ends_the_benchmark(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    from benchmarks import bench_serve

    result = {"width": 4, "height": 3, "detections": [{"label": "class 1", "score": 0.5, "box": [0, 0, 2, 2]}]}
    answer = http_load.Answer(0, 200, 0.1, json.dumps({"results": [result]}).encode())
    bench_serve.check([answer], [answer], [(4, 3)])
    with pytest.raises(SystemExit, match="image 0 has a wrong answer: 200"):
        bench_serve.check([answer], [answer], [(4, 2)])
    with pytest.raises(SystemExit, match="1 requests failed, the first with 503"):
        bench_serve.summarize([http_load.Answer(0, 503, 0.1, b"busy")], 1.0)


def test_table_of_results_has_rates_and_latency(monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks import readme_tables

    timing = {"samples": 40, "median": 0.1, "percentile_90": 0.2, "percentile_99": 0.3, "requests_per_second": 80.4}
    cases = {"batches": {**timing, "batches": {"4": 40}}, "batch 1": {**timing, "requests_per_second": 20.1}}
    machine = dict.fromkeys(("gpu", "torch", "torchvision", "commit", "date", "command"), "x")
    report = {"machine": machine, "cases": {"serve, ssd300_vgg16, 64 clients": cases}}
    monkeypatch.setattr(readme_tables, "load", lambda kind: [report] if kind == "gpu" else [])
    row = readme_tables.served().splitlines()[2]
    assert row == "| GPU: ssd300_vgg16, 64 clients | 80 | 100 ms, 200 ms, 300 ms | 4.0 | 20 | 4.0 |"
    monkeypatch.setattr(readme_tables, "load", lambda kind: [])
    assert readme_tables.served() == "Not measured."
