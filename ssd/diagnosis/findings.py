"""What a part of the diagnosis returns: facts, and findings with their remedies."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Finding:
    """Something to know.

    Args:
        text: What was found.
        remedy: What to do about it.
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
        """Adds something that works, and could do better."""
        self.findings.append(Finding(text, remedy, is_problem=False))
