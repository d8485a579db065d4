"""Finds and loads the compiled library."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import torch


def load() -> bool:
    """Load `libssd_ops.so` beside this file; return whether its kernels are there."""
    path = Path(__file__).with_name("libssd_ops.so")
    if os.environ.get("SSD_OPS_BACKEND") == "reference":
        return False
    if not path.exists():
        warnings.warn("ssd_ops runs on the reference: no compiled library", stacklevel=3)
        return False
    torch.ops.load_library(str(path))
    return True
