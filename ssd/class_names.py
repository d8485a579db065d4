"""Class names as texts for people: whatever a data set calls its classes, tables and pictures stay readable."""

from collections.abc import Iterable, Sequence

_LONGEST = 40  # characters


def shown(name: str, longest: int = _LONGEST) -> str:
    """Returns a name on one line: characters that cannot be printed are escaped, and the end of a long name is cut."""
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name[: longest + 1])
    return text if len(text) <= longest else text[: longest - 3] + "..."


def columns(names: Sequence[str], taken: Iterable[str] = ()) -> list[str]:
    """Returns a column title for each name, no two alike and none of those `taken`."""
    used, titles = set(taken), []
    for name in names:
        title = text = shown(name)
        number = 1
        while title in used:
            number += 1
            title = f"{text} ({number})"
        used.add(title)
        titles.append(title)
    return titles
