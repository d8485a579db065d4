"""Comparisons of sizes, some of which are unknown while a program is compiled: lengths that depend on values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def may_hold(condition: Any) -> bool:
    """Returns a condition on sizes; True if it depends on a size that the compiler does not know."""
    if isinstance(condition, Tensor):  # torch.jit.trace
        return bool(condition)
    if not torch.compiler.is_compiling() and not isinstance(condition, torch.SymBool):
        return bool(condition)  # may be a NumPy bool
    from torch.fx.experimental.symbolic_shapes import guard_or_true  # imports SymPy

    return guard_or_true(condition)


def is_unknown(size: int) -> bool:
    """Returns whether the compiler does not know a size; it then knows of no condition that it is false."""
    return torch.compiler.is_compiling() and may_hold(size % 2 == 0) and may_hold(size % 2 == 1)


def same_sizes(sizes: Sequence[int], expected: Sequence[int]) -> bool:
    """Returns whether sizes are the expected ones; of those that the compiler does not know, the program checks it."""
    if len(sizes) != len(expected):
        return False
    if not torch.compiler.is_compiling() and torch.SymInt not in map(type, (*sizes, *expected)):
        return tuple(sizes) == tuple(expected)
    pairs = list(zip(sizes, expected, strict=True))
    for size, other in pairs:
        if not may_hold(size == other):
            return False
    for size, other in pairs:
        torch._check(size == other)
    return True
