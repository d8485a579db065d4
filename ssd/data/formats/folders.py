"""Lists the content of a data set's folder, also for error messages."""

from pathlib import Path

from ssd.common.class_names import list_first
from ssd.common.file_tree import IMAGE_SUFFIXES, images_below

_LISTED = 12  # files of a folder in an error message


def files_by_stem(folder: Path) -> dict[str, str]:
    """Returns the image files below a folder: path relative to it, without suffix -> path.

    If two names differ only in the suffix, the first suffix of `ssd.common.file_tree` is used. The folder is listed once,
    because testing for each file separately takes minutes on a network disk.
    """
    ranks = {suffix: rank for rank, suffix in enumerate(IMAGE_SUFFIXES)}
    files = sorted(images_below(folder), key=lambda path: -ranks[path.suffix.lower()])
    return {path.relative_to(folder).with_suffix("").as_posix(): str(path) for path in files}


def split_path(path: Path, annotations: str | Path | None) -> tuple[Path, str | Path | None]:
    """Returns the folder of a data set and its annotation file; `path` may be either of them."""
    if not path.is_file():
        return path, annotations
    folder = path.absolute().parent
    is_inner = folder.name.lower() in ("annotations", "labels", "ann")
    return (folder.parent if is_inner else folder), annotations if annotations is not None else path.absolute()


def describe_folder(folder: Path) -> str:
    """Returns the content of a folder for an error message, such as `found a/, b.txt`, or that it does not exist."""
    if not folder.exists():
        parent = folder.parent
        near = f"; {parent} has {_listing(parent)}" if parent.is_dir() else ""
        return f"but it does not exist{near}"
    if not folder.is_dir():
        return "but it is a file"
    return f"found {_listing(folder)}"


def _listing(folder: Path) -> str:
    names = sorted(entry.name + ("/" if entry.is_dir() else "") for entry in folder.iterdir())
    return list_first(names, _LISTED) if names else "nothing in it"
