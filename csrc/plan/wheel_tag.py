"""Determines the oldest Linux that a library loads on, for the name of the wheel."""

from __future__ import annotations

import re
from pathlib import Path

from probe import run_text

# glibc -> newest symbol versions of the C++ runtime in distributions with it, as the manylinux policies have them
POLICIES = {(2, 17): (3, 4, 19), (2, 28): (3, 4, 24), (2, 34): (3, 4, 29), (2, 35): (3, 4, 30), (2, 39): (3, 4, 33)}


def platform_tag(library: Path, platform: str) -> str:
    """Returns `platform`, such as "linux_x86_64", as a manylinux tag if the symbols of the library allow for one."""
    symbols = run_text("objdump", "--dynamic-syms", str(library))
    glibc, cxx = (newest(symbols, name) for name in ("GLIBC", "GLIBCXX"))
    for policy, newest_cxx in POLICIES.items():
        if platform.startswith("linux_") and () < glibc <= policy and cxx <= newest_cxx:
            return f"manylinux_{policy[0]}_{policy[1]}_{platform.removeprefix('linux_')}"
    return platform


def newest(symbols: str, name: str) -> tuple[int, ...]:
    """Returns the newest version of the symbols of a library, () if it has none of that name."""
    versions = re.findall(rf"\b{name}_([\d.]+)", symbols)
    return max((tuple(map(int, version.split("."))) for version in versions), default=())
