"""Pytest configuration: selection of GPU tests and slow tests, number of processes, and number of property cases.

`pytest` runs all tests but those marked slow (statistics of many samples, whole networks, other programs), which
`pytest -m slow` runs, as .ci/run does. Files and tests that are named run with their slow tests.

The default profile `ci` draws the same cases on every run, so that a change does not fail for an unrelated case.
`pytest tests/ops/properties --hypothesis-profile=long` draws more than 100,000 new cases each time and prints how to
reproduce a failure: fix the op, and keep the case as an `@example` of its test.
"""

from __future__ import annotations

import os
from typing import Any

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

# Files that take longest, in the order in which they start: none of them then runs alone at the end.
LONG_FILES = (
    "test_ops_emulated.py",
    "test_training.py",
    "test_resuming.py",
    "test_benchmarks.py",
    "test_device_augmentation.py",
    "test_distributed.py",
    "test_models.py",
)


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Leaves the slow tests out of the whole suite, and distributes it over the cores, file by file, with pytest-xdist.

    With a GPU there is a single process, since some tests fill its memory. -m, -k and -n are obeyed where given.
    """
    option, has_gpu = config.option, torch.cuda.is_available()
    if hasattr(config, "workerinput"):  # a process of xdist
        option.markexpr = config.workerinput["markexpr"]
        return
    if config.args_source is not config.ArgsSource.TESTPATHS:
        return
    if not option.markexpr and not option.keyword:
        option.markexpr = "not slow" if has_gpu else "not slow and not cuda"
    if has_gpu or option.usepdb or option.trace or option.capture == "no":
        return
    if config.pluginmanager.hasplugin("xdist") and option.numprocesses is None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        # One more than cores, since some tests wait for other programs; each takes 1 to 2 GB of memory.
        option.numprocesses = min(cores, 4) + 1
        option.dist, option.loadscopereorder = "loadfile", False  # in the order of collection, see LONG_FILES
        os.environ.setdefault("OMP_NUM_THREADS", "1")  # per process


class SameSelection:
    """A plugin of pytest-xdist's first process."""

    def pytest_configure_node(self, node: Any) -> None:
        """Hands the selection of tests to a process that runs them: it parses only the command line itself."""
        node.workerinput["markexpr"] = node.config.option.markexpr


def pytest_configure(config: pytest.Config) -> None:
    if config.pluginmanager.hasplugin("xdist"):
        config.pluginmanager.register(SameSelection())


def pytest_report_header() -> str | None:
    return None if torch.cuda.is_available() else "no GPU: tests marked cuda are deselected, or skipped with -m cuda"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    ranks = {name: rank for rank, name in enumerate(LONG_FILES)}
    items.sort(key=lambda item: ranks.get(item.path.name, len(ranks)))  # stable: all others stay in order
    if torch.cuda.is_available() or config.option.markexpr:
        return
    deselected = [item for item in items if item.get_closest_marker("cuda")]
    items[:] = [item for item in items if not item.get_closest_marker("cuda")]
    config.hook.pytest_deselected(items=deselected)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = [report for kind in terminalreporter.stats.values() for report in kind]
    ended = [dict(report.user_properties) for report in reports if getattr(report, "when", None) == "teardown"]
    if cases := sum(found.get("property cases", 0) for found in ended):
        terminalreporter.write_line(f"{cases} property cases ran")
