"""Keeps training runs short: matplotlib renders figures only in the modules that test them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

DRAWING = ("test_data_check", "test_eval", "test_training", "test_validation")


@pytest.fixture(scope="module", autouse=True)
def empty_figures(request: pytest.FixtureRequest) -> Iterator[None]:
    """Lets Figure.savefig write empty files: rendering takes half of the time of a small training run."""
    if request.module.__name__.rpartition(".")[2] in DRAWING:
        yield
        return
    from matplotlib.figure import Figure

    def touch(figure: Figure, path: Path, **options: Any) -> None:
        path.touch()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", touch)
        yield
