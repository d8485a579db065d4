"""The types that networks run in, and whether a device gains by half precision."""

from __future__ import annotations

import torch

DTYPES = (torch.bfloat16, torch.float16, torch.float32, torch.float64)


def check_dtype(dtype: object) -> None:
    """Raises a ValueError unless networks can run in a type; None stands for that of the device."""
    if dtype is not None and dtype not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(map(str, DTYPES))}, or None, got {dtype!r}")


def has_native_bfloat16(device: torch.device) -> bool:
    """Returns whether a device computes in bfloat16 by its own instructions, so that bfloat16 is faster than float32.

    On a CPU these are AVX512_BF16, which every CPU with AMX has, too. Without them oneDNN emulates bfloat16 and is slower
    than in float32. ARM's instructions do not count: bfloat16 has not been measured with them.
    """
    if device.type == "cuda":
        if not torch.cuda.is_available():
            return False
        with torch.cuda.device(device):  # torch asks the current one
            return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    # ATEN_CPU_CAPABILITY may be lower than what the CPU has; other operations than convolutions obey it.
    return torch.backends.cpu.get_cpu_capability() == "AVX512" and bool(torch.cpu.get_capabilities().get("avx512_bf16"))
