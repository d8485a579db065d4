"""Formats class names for display, so that tables and plots stay readable whatever the names contain."""

from collections.abc import Iterable, Sequence

_MAX_LENGTH = 40


def display_name(name: str, max_length: int = _MAX_LENGTH) -> str:
    """Returns a name on one line, with unprintable characters escaped and long names truncated."""
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name[: max_length + 1])
    return text if len(text) <= max_length else text[: max_length - 3] + "..."


def list_first(names: Sequence[str], limit: int) -> str:
    """Returns the first names, separated by commas, and the number of the others."""
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")


def column_titles(names: Sequence[str], reserved: Iterable[str]) -> list[str]:
    """Returns a unique column title for each name, distinct from the reserved ones."""
    used, titles = set(reserved), []
    for name in names:
        title = text = display_name(name)
        number = 1
        while title in used:
            number += 1
            title = f"{text} ({number})"
        used.add(title)
        titles.append(title)
    return titles


def describe_alike(classes: Sequence[str]) -> str:
    """Returns a note about classes that may be one, as their names differ in case only; "" if there are none."""
    names: dict[str, list[str]] = {}
    for name in classes:
        names.setdefault(name.strip().casefold(), []).append(display_name(name))
    found = [" and ".join(same) for same in names.values() if len(same) > 1]
    return f"classes that differ in case only: {list_first(found, 5)}" if found else ""
