"""Which compiled CUDA architectures a GPU can run."""

from __future__ import annotations

import re
from collections.abc import Sequence


def coverage(capability: tuple[int, int], architectures: Sequence[str]) -> str:
    """Returns how a GPU runs what was compiled: `"machine code"`, `"PTX"` (compiled by the driver at first use), `"none"`.

    Machine code runs on GPUs of the same major version and the same or a higher minor one, PTX on any GPU that is not
    older. Architectures with a letter (`90a`) run on exactly that GPU; with `f` on its family.

    Args:
        capability: Compute capability, (9, 0) for sm_90.
        architectures: As CMake writes them: `90-real`, `120-virtual`, or `90` for both.
    """
    best = "none"
    for name in architectures:
        found = re.fullmatch(r"(\d+)(\d)([af]?)(-real|-virtual)?", name)
        if found is None:
            continue
        compiled, suffix, kind = (int(found[1]), int(found[2])), found[3], found[4]
        if suffix == "a":
            fits_code, fits_ptx = capability == compiled, capability == compiled
        elif suffix == "f":
            fits_code = fits_ptx = capability[0] == compiled[0] and capability >= compiled
        else:
            fits_code = capability[0] == compiled[0] and capability >= compiled
            fits_ptx = capability >= compiled
        if kind != "-virtual" and fits_code:
            return "machine code"
        if kind != "-real" and fits_ptx:
            best = "PTX"
    return best
