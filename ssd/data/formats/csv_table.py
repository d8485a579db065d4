"""Reading a CSV of boxes: which column is what, which rows hold a box, and the line of each fault."""

import csv
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ssd.common.file_tree import read_text
from ssd.config.other_formats import describe_other_format
from ssd.data.annotations import Box
from ssd.data.faults import DataError, Fault, FaultLog
from ssd.data.formats.field_values import as_side, is_true

# Accepted names of each column, in any case; if a header has two of them, the first one here is used.
COLUMNS = {
    "image": ("image", "filename", "file_name", "image_path", "image_name", "path", "file", "imageid", "image_id"),
    "xmin": ("xmin", "x1", "x_min", "left"),
    "ymin": ("ymin", "y1", "y_min", "top"),
    "xmax": ("xmax", "x2", "x_max", "right"),
    "ymax": ("ymax", "y2", "y_max", "bottom"),
    "label": ("label", "class", "class_name", "classname", "category", "category_name", "labelname", "name"),
    "ignore": ("ignore", "difficult", "iscrowd", "isgroupof"),
    "split": ("split", "set", "subset"),
    "height": ("height", "image_height", "img_height"),
    "width": ("width", "image_width", "img_width"),
}
_NEEDED = ("image", "xmin", "ymin", "xmax", "ymax", "label")
_CORNERS = ("xmin", "ymin", "xmax", "ymax")
_IS_ID = re.compile(r"/[a-z]/\w+")  # of Google's Knowledge Graph
# Names of boxes by corner and sides, of which some tools mean the center: they are not read.
_SIDES = (("x", "y", "w", "h"), ("x", "y", "width", "height"), ("left", "top", "width", "height"), ("bbox",), ("box",))
_MISSING = ("", "nan", "na", "n/a", "null", "none", "<na>")  # how pandas and others write an empty cell


@dataclass(frozen=True)
class Row:
    """One line: an object, or without a box its image only, which may have no other objects."""

    line: int
    image: str
    box: Box | None  # xyxy in the file's units
    label: str
    ignore: bool
    split: str | None
    size: tuple[int, int] | None = None  # height and width of the image, if the file has them


def read_table(path: Path, log: FaultLog) -> list[Row]:
    """Reads the rows of a file with the columns image, xmin, ymin, xmax, ymax, label, under any of their usual names.

    The header names the columns; without one they have that order (as in keras-retinanet). A row whose corners are all
    empty names an image without objects, also with a label such as "No finding". Rows that cannot be read go to the log.

    Raises:
        DataError: The file cannot be read, or its first line is neither such a header nor such a row.
    """
    try:
        text = read_text(path)
        first = text.split("\n", 1)[0]
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=first.count))
        return list(_rows(reader, path, log))
    except (OSError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as CSV: {error}") from None


def with_names(rows: list[Row], folder: Path) -> list[Row]:
    """Returns rows of Open Images, whose labels are ids such as /m/01yrx, with the names of class-descriptions*.csv."""
    files = sorted(folder.glob("*class-descriptions*.csv"))
    if not files or not any(_IS_ID.fullmatch(row.label) for row in rows):
        return rows
    names: dict[str, str] = {}
    for file in files:
        try:
            names |= {
                cells[0]: cells[1].strip() for cells in csv.reader(io.StringIO(read_text(file))) if len(cells) > 1
            }
        except csv.Error as error:
            raise DataError(f"{file} cannot be read as CSV: {error}") from None
    return [replace(row, label=names.get(row.label) or row.label) for row in rows]


def _rows(reader: Any, path: Path, log: FaultLog) -> Iterator[Row]:
    columns: dict[str, int] | None = None
    width = 0
    for cells in reader:
        line = reader.line_num
        cells = [cell.strip() for cell in cells]
        if not any(cells):
            continue
        if columns is None:
            columns, is_header = _columns(cells, path, line)
            width = len(cells)
            if is_header:
                continue
        if len(cells) != width:
            log.add(Fault(str(path), "line malformed", f"expected {width} cells, got {len(cells)}", line=line))
            continue
        if any("\n" in cell for cell in cells):  # it swallows the lines up to the next quote
            log.add(Fault(str(path), "line malformed", "a quote is not closed in its line", line=line))
            continue
        row = _row(cells, columns, path, line, log)
        if row is not None:
            yield row


def _row(cells: Sequence[str], columns: dict[str, int], path: Path, line: int, log: FaultLog) -> Row | None:
    texts = [cells[columns[name]] for name in _CORNERS]
    label, image = cells[columns["label"]], cells[columns["image"]]
    split = cells[columns["split"]] if "split" in columns else None
    sides = [as_side(cells[columns[name]]) if name in columns else None for name in ("height", "width")]
    size = (sides[0], sides[1]) if sides[0] and sides[1] else None
    ignore = "ignore" in columns and is_true(cells[columns["ignore"]])
    if not image:
        log.add(Fault(str(path), "line malformed", "the image is empty", line=line))
        return None
    if all(text.lower() in _MISSING for text in texts):
        return Row(line, image, None, "" if label.lower() in _MISSING else label, False, split, size)
    try:
        x1, y1, x2, y2 = map(float, texts)
    except ValueError:
        values = ", ".join(f"{name} {text!r:.40}" for name, text in zip(_CORNERS, texts, strict=True))
        log.add(Fault(str(path), "box not a number", values, line=line))
        # The image is kept, with its other boxes or without any.
        return Row(line, image, None, "", False, split, size)
    return Row(line, image, (x1, y1, x2, y2), label, ignore, split, size)


def _columns(cells: list[str], path: Path, line: int) -> tuple[dict[str, int], bool]:
    """Returns column -> index, and whether this line is a header."""
    folded = [cell.lower() for cell in cells]
    found = {
        column: folded.index(next(name for name in names if name in folded))
        for column, names in COLUMNS.items()
        if any(name in folded for name in names)
    }
    if all(column in found for column in _NEEDED):
        return found, True
    if len(cells) == len(_NEEDED) and all(cell == "" or _is_number(cell) for cell in cells[1:5]):
        return {column: index for index, column in enumerate(_NEEDED)}, False
    missing = [column for column in _NEEDED if column not in found]
    raise DataError(
        f"{path}, line {line}: expected a header with {', '.join(_NEEDED)}, or rows of these six without one; found "
        f"{', '.join(cells)[:200]}, which lacks {', '.join(missing)}{_advice(folded, path)}"
    )


def _advice(header: list[str], path: Path) -> str:
    if other := describe_other_format([path]):
        return f". {other}"
    for names in _SIDES:
        if all(name in header for name in names):
            return f"; {', '.join(names)} must become the columns xmin, ymin, xmax, ymax"
    return ""


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
