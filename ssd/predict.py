"""Detect objects in images and videos with a trained model, in a source checkout; `ssd predict` is the same program.

python ssd/predict.py runs/NAME photos/
"""

from __future__ import annotations

import sys
from pathlib import Path

if __package__ in (None, ""):  # run as a file: let `import ssd` find the package, not this folder
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from ssd.programs.predict import main

__all__ = ["main"]

if __name__ == "__main__":
    main()
