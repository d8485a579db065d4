"""The words of an error about an unknown name: what came, the near one, and all that are known."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """Writes "unknown KIND 'name', did you mean 'near'? Known: a, b" without a near one if nothing is near."""
    names = sorted(known)
    folded = {n.lower(): n for n in names}
    near = difflib.get_close_matches(str(name).lower(), folded, n=1, cutoff=0.5)
    hint = f", did you mean {folded[near[0]]!r}?" if near else "."
    return f"unknown {kind} {name!r}{hint} Known: {', '.join(names)}"
