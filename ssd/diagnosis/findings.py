"""Facts and findings of a part of the diagnosis."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Finding:
    """A problem or a hint.

    Args:
        text: Description.
        remedy: How to fix it.
        is_problem: Whether something does not work as it should; else it is a hint.
    """

    text: str
    remedy: str
    is_problem: bool = True


@dataclass
class Section:
    """A part of the diagnosis: facts by name, ready for JSON, and findings."""

    facts: dict[str, Any] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    def problem(self, text: str, remedy: str) -> None:
        """Adds something that does not work as it should."""
        self.findings.append(Finding(text, remedy))

    def hint(self, text: str, remedy: str) -> None:
        """Adds something that works but could be better."""
        self.findings.append(Finding(text, remedy, is_problem=False))
