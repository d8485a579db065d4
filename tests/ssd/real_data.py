"""Locates real data sets for tests: in the folder next to the checkout, or in $SSD_DATA."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(os.environ.get("SSD_DATA") or Path(__file__).resolve().parents[3] / "shared" / "data")


def real_data(name: str) -> Path:
    """Returns a file or folder of the real data, or skips the test if it is missing."""
    if not (ROOT / name).exists():
        pytest.skip(f"{name} is not in {ROOT}; SSD_DATA names the folder that holds it")
    return ROOT / name
