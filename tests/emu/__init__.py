"""The CUDA kernels on the CPU: builds the emulated library once and registers its ops as `torch.ops.ssd_ops_emu`."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch

from ssd_ops import _register
from tests.emu.build import build_library


@lru_cache(maxsize=1)
def emulated_ops() -> Any:
    """Return `torch.ops.ssd_ops_emu`: the glue of `ssd_ops` with the CUDA kernels behind CPU tensors."""
    torch.ops.load_library(str(build_library()))
    emulated_ops.registrations = _register.register("ssd_ops_emu", defined=True)  # type: ignore[attr-defined]
    return torch.ops.ssd_ops_emu
