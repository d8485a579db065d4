"""Looking into a folder of the user's: which files are there, and what to say where something is not."""

import os
from pathlib import Path

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm")


def files_by_stem(folder: Path) -> dict[str, str]:
    """Returns the image files of a folder, name without suffix -> path; of two with one stem the first suffix listed
    above.

    One listing of the folder: asking for each file by itself takes minutes on a network disk.
    """
    found: dict[str, str] = {}
    ranks: dict[str, int] = {}
    for entry in os.scandir(folder):
        stem, suffix = os.path.splitext(entry.name)
        if suffix.lower() in IMAGE_SUFFIXES:
            rank = IMAGE_SUFFIXES.index(suffix.lower())
            if rank < ranks.get(stem, len(IMAGE_SUFFIXES)):
                found[stem] = entry.path
                ranks[stem] = rank
    return found


def describe_folder(folder: Path, limit: int = 12) -> str:
    """Returns what is in a folder as part of an error: ``"found a/, b.txt"``, or that it does not exist."""
    if not folder.exists():
        parent = folder.parent
        near = f"; {parent} has {_listing(parent, limit)}" if parent.is_dir() else ""
        return f"but it does not exist{near}"
    if not folder.is_dir():
        return "but it is a file"
    return f"found {_listing(folder, limit)}"


def _listing(folder: Path, limit: int) -> str:
    names = sorted(entry.name + ("/" if entry.is_dir() else "") for entry in folder.iterdir())
    if not names:
        return "nothing in it"
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
