"""Lets `python benchmarks/bench_x.py` find the packages of the checkout, installed or not."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
