"""How much memory a call takes beyond what was there before it: results and scratch together, at their highest.

On a GPU torch's allocator counts. On Linux the kernel does: the process's peak of resident memory is reset, the call is
made, and the peak is read. Freed memory is given back first, so that what the call takes is new to the process. Pages
are counted, so below some 100 KB the number means "next to nothing".
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
    """Return the bytes that a call takes at its highest, its results included; None where nothing counts them."""
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
    except (AttributeError, OSError):  # another C library, or another system
        return None
    before = _highest_resident()
    call()
    return _highest_resident() - before


def shown(size: float) -> str:
    """Return bytes in the unit that fits."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6)):
        if size >= scale:
            return f"{size / scale:.3g} {unit}"
    return f"{size / 1e3:.3g} KB"


def _highest_resident() -> int:
    line = next(line for line in _STATUS.read_text(encoding="ascii").splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024
