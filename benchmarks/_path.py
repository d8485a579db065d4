"""Puts the checkout on sys.path, so that `python benchmarks/bench_x.py` runs without an installation."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
