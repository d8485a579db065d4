"""Peak memory of a call beyond what was allocated before it: results and temporaries together.

On a GPU, torch's allocator reports it. On Linux, the peak resident set size of the process is reset, the call is made, and
the peak is read. Free memory is returned to the system first, so that all memory the call uses is newly mapped. The unit is
a page, so that values below some 100 KB are not meaningful.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def peak_memory(call: Callable[[], Any], device: torch.device) -> int | None:
    """Returns the peak memory of a call in bytes, including its results; None where it cannot be measured."""
    if device.type == "cuda":
        import torch

        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        call()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    try:
        ctypes.CDLL(None).malloc_trim(0)
        _RESET.write_text("5")
    except (AttributeError, OSError):  # another C library or operating system
        return None
    before = _highest_resident()
    call()
    return _highest_resident() - before


def shown(size: float) -> str:
    """Returns a size in bytes as text, with a suitable unit."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6)):
        if size >= scale:
            return f"{size / scale:.3g} {unit}"
    return f"{size / 1e3:.3g} KB"


def _highest_resident() -> int:
    line = next(line for line in _STATUS.read_text(encoding="ascii").splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024
