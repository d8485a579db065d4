"""The JSON of a COCO data set: reading it, and its categories."""

import json
import reprlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ssd.common.file_tree import read_regular
from ssd.data.faults import DataError, shorten
from ssd.data.formats.field_values import as_int

_MAX_IDS = 10_000  # maximum number of classes with labels='ids'


def read_json(path: Path) -> Any:
    """Reads a JSON file in UTF-8, UTF-16 or UTF-32.

    Raises:
        DataError: The file is missing or is not JSON.
    """
    try:
        return json.loads(read_regular(path))
    except FileNotFoundError:
        raise DataError(f"{path} does not exist") from None
    except DataError:
        raise
    except RecursionError:
        raise DataError(f"{path} is not a JSON file that can be read: it is nested too deeply") from None
    except (ValueError, OSError) as error:
        raise DataError(f"{path} is not a JSON file: {shorten(error)}") from None


def read_coco_json(path: str | Path) -> dict[str, Any]:
    """Reads a COCO JSON file and checks that its three lists are there.

    Raises:
        DataError: The file is missing, is not JSON, or lacks images, annotations or categories.
    """
    data = read_json(Path(path))
    for key in ("images", "annotations", "categories"):
        if not isinstance(data, dict) or not isinstance(data.get(key), list):
            found = ", ".join(map(str, list(data)[:10])) if isinstance(data, dict) else f"a {type(data).__name__}"
            raise DataError(
                f"{path} is not a COCO file: expected the lists images, annotations, categories, found {found}"
            )
    return dict(data)


def read_categories(
    categories: list[Any], used: set[int | None], classes: Sequence[str] | None, file: Path
) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Returns the names of the classes and their category ids.

    A group that no annotation uses is not a class: Roboflow writes the project's name as a category before the others.

    Args:
        categories: Categories of the file.
        used: Ids that annotations name.
        classes: Names to use; None: all, by ascending id.
        file: For messages.

    Raises:
        DataError: a category without id or name, one given twice, or a name in `classes` that no category has.
    """
    for category in categories:
        if not isinstance(category, dict) or as_int(category.get("id")) is None or not category.get("name"):
            raise DataError(f"{file}: category {reprlib.repr(category)} must have an id and a name")
    above = {str(category.get("supercategory")) for category in categories}
    ids: dict[str, int] = {}
    for category in sorted(categories, key=lambda category: as_int(category["id"]) or 0):
        key, name = as_int(category["id"]), str(category["name"])
        is_top = category.get("supercategory") in (None, "", "none")
        if is_top and name in above and key not in used:
            continue
        if key is None or name in ids or key in ids.values():
            raise DataError(f"{file}: category {reprlib.repr(category)} must have a unique id and a unique name")
        ids[name] = key
    missing = [name for name in classes or () if name not in ids]
    if missing:
        wanted = ", ".join(map(repr, missing))
        raise DataError(f"{file} has no category {shorten(wanted)}; it has {shorten(', '.join(ids), 1000)}")
    names = tuple(classes) if classes is not None else tuple(ids)
    if not names:
        raise DataError(f"{file} lists no category")
    return names, tuple(ids[name] for name in names)


def with_gaps(names: Sequence[str], ids: Sequence[int], chosen: bool) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Returns names and ids where labels are ids: every id up to the maximum has a class."""
    if chosen or min(ids) < 1 or max(ids) > _MAX_IDS:
        raise DataError(
            f"labels='ids' needs all categories (no classes=) with ids in 1 .. {_MAX_IDS}, got {min(ids)} .. {max(ids)}"
        )
    known = dict(zip(ids, names, strict=True))
    every = tuple(range(1, max(ids) + 1))
    return tuple(known.get(i, f"unused {i}") for i in every), every
