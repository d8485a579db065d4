"""Pytest configuration: selection of GPU tests, number of processes, and number of property cases.

The default profile `ci` draws the same cases on every run, so that a change does not fail for an unrelated case.
`pytest tests/ops/properties --hypothesis-profile=long` draws more than 100,000 new cases each time and prints how to
reproduce a failure: fix the op, and keep the case as an `@example` of its test.
"""

from __future__ import annotations

import os

import pytest
import torch
from hypothesis import HealthCheck, settings

# Building inputs is slower than drawing the few numbers that describe them; fixtures keep no state between cases.
SUPPRESSED = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.filter_too_much]

settings.register_profile(
    "ci", max_examples=50, derandomize=True, deadline=None, database=None, suppress_health_check=SUPPRESSED
)
settings.register_profile(
    "long", max_examples=1500, deadline=None, database=None, print_blob=True, suppress_health_check=SUPPRESSED
)
settings.load_profile("ci")


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Spreads the whole suite over the cores, file by file, where pytest-xdist is there; -n says otherwise.

    A GPU, whose memory some tests fill, is left to one process.
    """
    is_whole = config.args_source is config.ArgsSource.TESTPATHS and not hasattr(config, "workerinput")
    option = config.option
    if not is_whole or torch.cuda.is_available() or option.usepdb or option.trace or option.capture == "no":
        return
    if config.pluginmanager.hasplugin("xdist") and option.numprocesses is None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        option.numprocesses = min(cores, 4)  # each takes a gigabyte or two, and the longest files take half a minute
        option.dist, option.loadscopereorder = "loadfile", False  # what takes longest comes early in the alphabet
        os.environ.setdefault("OMP_NUM_THREADS", "1")  # of each process


def pytest_report_header() -> str | None:
    return None if torch.cuda.is_available() else "no GPU: tests marked cuda are deselected, or skipped with -m cuda"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if torch.cuda.is_available() or config.option.markexpr:
        return
    left_out = [item for item in items if item.get_closest_marker("cuda")]
    items[:] = [item for item in items if not item.get_closest_marker("cuda")]
    config.hook.pytest_deselected(items=left_out)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = [report for kind in terminalreporter.stats.values() for report in kind]
    ended = [dict(report.user_properties) for report in reports if getattr(report, "when", None) == "teardown"]
    if cases := sum(found.get("property cases", 0) for found in ended):
        terminalreporter.write_line(f"{cases} property cases ran")
