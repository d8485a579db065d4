"""The CUDA kernels on the CPU: builds the emulated library once and registers its ops as `torch.ops.ssd_ops_emu`."""

from __future__ import annotations

import os
from functools import lru_cache
from typing import Any


@lru_cache(maxsize=1)
def emulated_ops() -> Any:
    """Returns `torch.ops.ssd_ops_emu`: the glue of `ssd_ops` with the CUDA kernels for CPU tensors.

    SSD_OPS_EMU_VARIANT in the environment chooses the build: plain (the default), sanitized or checked. A process can
    load the sanitized one only in the environment that `build.sanitizer_environment()` returns.
    """
    import torch

    from ssd_ops import _register
    from tests.emu.build import build_library

    torch.ops.load_library(str(build_library(os.environ.get("SSD_OPS_EMU_VARIANT", "plain"))))
    emulated_ops.registrations = _register.register("ssd_ops_emu", defined=True)  # type: ignore[attr-defined]
    return torch.ops.ssd_ops_emu
