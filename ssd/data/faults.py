"""Faults of a data set: invalid annotations and unreadable files, with file and object."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from ssd.common.errors import DataError

__all__ = ["IMAGE_KINDS", "DataError", "Fault", "FaultLog", "check_choice", "list_faults", "no_class", "shorten"]

MODES = ("skip", "raise")
_LISTED = 20  # faults listed in an error or a printed summary; the others are counted
_KEPT = 10_000  # faults kept in memory; the others are counted
# Kinds of fault that drop a whole image.
IMAGE_KINDS = (
    "image missing",
    "image unreadable",
    "image of another size",
    "image entry malformed",
    "annotation missing",
    "annotation malformed",
    "item unusable",
)


@dataclass(frozen=True)
class Fault:
    """One fault of one file.

    Args:
        file: The file that holds the fault (an annotation file for a box, an image file for pixels).
        kind: Short name of the fault, the key under which it is counted, such as `"box without area"`.
        detail: Description with the invalid values.
        object_index: Index of the object in its file, counted from 0; None for a fault of the whole file.
        line: Line of the file, counted from 1, for formats with one object per line.
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
    """Collects the faults of a data set, each once, and raises an error with them if the mode is `"raise"`.

    Args:
        mode: `"skip"` skips the faulty object or file; `"raise"` makes `check` raise.
    """

    mode: str = "skip"
    faults: list[Fault] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    _seen: set[int] = field(default_factory=set, repr=False)  # hashes, to save memory
    _reported: int = 0  # number of counted faults that new_entries has returned
    _listed: int = 0  # number of kept faults that new_entries has returned

    def __post_init__(self) -> None:
        check_choice("on_error", self.mode, MODES)

    def add(self, fault: Fault) -> None:
        """Records a fault; the same fault from another epoch or worker is not counted again."""
        key = hash(fault)
        if key in self._seen:
            return
        self._seen.add(key)
        self.counts[fault.kind] += 1
        if len(self.faults) < _KEPT:
            self.faults.append(fault)

    @property
    def images_skipped(self) -> int:
        """Number of faults that dropped a whole image."""
        return sum(self.counts[kind] for kind in IMAGE_KINDS)

    def new_entries(self, limit: int = 10) -> str:
        """Returns the first `limit` faults added since the last call, one per line; "" if there are none."""
        count, new = self.counts.total() - self._reported, self.faults[self._listed :]
        self._reported, self._listed = self._reported + count, len(self.faults)
        if not count:
            return ""
        lines = [f"  {fault}" for fault in new[:limit]]
        more = count - len(lines)
        return "\n".join([*lines, f"  ... and {more} more"] if more else lines)

    def check(self, source: str) -> None:
        """Raises a `DataError` that lists the faults, if there are any and the mode is `"raise"`."""
        if self.mode == "raise" and self.faults:
            raise DataError(
                f"{source} has {sum(self.counts.values())} faults:\n{list_faults(self.faults)}\n"
                "Fix the files, or skip the faulty objects and files with on_error='skip'."
            )


def check_choice(name: str, value: str, allowed: Sequence[str]) -> None:
    """Raises `DataError` if `value` is not an allowed value of the option `name`."""
    if value not in allowed:
        raise DataError(f"{name} must be one of {', '.join(map(repr, allowed))}, got {value!r}")


def shorten(text: object, limit: int = 200) -> str:
    """Returns a value as a string of limited length, for messages."""
    text = str(text)
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def no_class(what: str, log: FaultLog) -> str:
    """Returns the error message for a data set without classes: `what`, and the first fault as a possible cause."""
    return f"{what}; the first of {log.counts.total()} faults: {log.faults[0]}" if log.faults else what


def list_faults(faults: list[Fault], limit: int = _LISTED) -> str:
    """Returns the first `limit` faults, one per line, and the number of further ones."""
    lines = [f"  {fault}" for fault in faults[:limit]]
    if len(faults) > limit:
        lines.append(f"  ... and {len(faults) - limit} more")
    return "\n".join(lines)
