"""Which tests run: those of a GPU where there is one, and how many cases the property tests draw.

`ci`, the default, draws the same cases on every run, so that no change fails for a case that has nothing to do with it.
`pytest tests/ops/properties --hypothesis-profile=long` draws above 100,000, new ones each time, and prints how to repeat
one that fails: mend the op, and keep the case as an `@example` of its test.
"""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, settings

# Building inputs takes longer than drawing the few numbers that describe them; the fixtures hold no state of a case.
UNJUDGED = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.filter_too_much]

settings.register_profile(
    "ci", max_examples=50, derandomize=True, deadline=None, database=None, suppress_health_check=UNJUDGED
)
settings.register_profile(
    "long", max_examples=1500, deadline=None, database=None, print_blob=True, suppress_health_check=UNJUDGED
)
settings.load_profile("ci")


def pytest_report_header() -> str | None:
    return None if torch.cuda.is_available() else "no GPU: tests marked cuda are left out, or skipped with -m cuda"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if torch.cuda.is_available() or config.option.markexpr:
        return
    left_out = [item for item in items if item.get_closest_marker("cuda")]
    items[:] = [item for item in items if not item.get_closest_marker("cuda")]
    config.hook.pytest_deselected(items=left_out)
