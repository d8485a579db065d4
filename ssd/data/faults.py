"""Faults of a data set: what is wrong, in which file, at which object, and what was done about it."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

MODES = ("skip", "refuse")
_LISTED = 20  # faults spelled out in an error or a printed summary; the rest is counted
_KEPT = 10_000  # faults remembered by name; a file with a million orphans must not fill the memory


class DataError(ValueError):
    """An error in the user's data or in how it was asked for; its text names the file and the remedy."""


@dataclass(frozen=True)
class Fault:
    """One fault of one file.

    Args:
        file: the file that holds the fault (an annotation file for a box, an image file for pixels).
        kind: short name of the fault, the key under which it is counted, such as ``"box without area"``.
        detail: what was found, with its values.
        object_index: index of the object in its file, counted from 0; None for a fault of the whole file.
        line: line of the file, counted from 1, where its format has one object to a line.
    """

    file: str
    kind: str
    detail: str
    object_index: int | None = None
    line: int | None = None

    def __str__(self) -> str:
        where = self.file
        if self.line is not None:
            where += f", line {self.line}"
        if self.object_index is not None:
            where += f", object {self.object_index}"
        return f"{where}: {self.kind} ({self.detail})"


@dataclass
class FaultLog:
    """Collects the faults of a data set, each once, and refuses the data set if it was told to.

    Args:
        mode: ``"skip"`` leaves the faulty object or file out and goes on; ``"refuse"`` makes ``check`` raise.
    """

    mode: str = "skip"
    faults: list[Fault] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    _seen: set[Fault] = field(default_factory=set, repr=False)

    def __post_init__(self) -> None:
        check_choice("faults", self.mode, MODES)

    def add(self, fault: Fault) -> None:
        """Records a fault; the same fault met again (another epoch, another worker) is not counted twice."""
        if fault in self._seen:
            return
        self.counts[fault.kind] += 1
        if len(self.faults) < _KEPT:
            self._seen.add(fault)
            self.faults.append(fault)

    def check(self, source: str) -> None:
        """Raises `DataError` with the faults listed if there are any and the mode is ``"refuse"``."""
        if self.mode == "refuse" and self.faults:
            raise DataError(
                f"{source} has {sum(self.counts.values())} faults:\n{list_faults(self.faults)}\n"
                "Mend the files, or leave the faulty objects and files out with faults='skip'."
            )


def check_choice(name: str, value: str, allowed: Sequence[str]) -> None:
    """Raises `DataError` where the option `name` has none of the values allowed."""
    if value not in allowed:
        raise DataError(f"{name} must be one of {', '.join(map(repr, allowed))}, got {value!r}")


def list_faults(faults: list[Fault], limit: int = _LISTED) -> str:
    """Returns the faults one to a line, the first `limit` of them, and how many more there are."""
    lines = [f"  {fault}" for fault in faults[:limit]]
    if len(faults) > limit:
        lines.append(f"  ... and {len(faults) - limit} more")
    return "\n".join(lines)
