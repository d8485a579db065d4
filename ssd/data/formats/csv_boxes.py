"""CSV files of boxes: one object per line, with image, corners and class; `csv_table` describes the columns."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from ssd.common.errors import NoSplitError
from ssd.data.annotations import AnnotationsBuilder, Box, fit_box
from ssd.data.dataset import DetectionDataset
from ssd.data.faults import DataError, Fault, FaultLog, check_choice, no_class, shorten
from ssd.data.formats.csv_table import Row, read_table, with_names
from ssd.data.formats.field_values import as_names
from ssd.data.formats.folders import describe_folder, split_path
from ssd.data.formats.image_finder import ImageFinder
from ssd.data.formats.split_names import aliases, split_of_file
from ssd.data.loading.images import image_size

# Common paths of the table of a split. {} is the split.
_FILES = (
    "{}.csv",
    "annotations/{}.csv",
    "{}_labels.csv",
    "{}_annotations.csv",
    "{}/_annotations.csv",
    "{}/annotations.csv",
    "{}-annotations-bbox.csv",
    "sub-{}-annotations-bbox.csv",
)
_WHOLE = ("annotations.csv", "labels.csv")  # one table of all splits, with a column that names the split
_FRACTION = 1.01  # a file whose every coordinate is at most this counts in fractions of the image


class CSVDataset(DetectionDataset):
    """A split of a data set with boxes in a CSV file.

    Corners are xyxy, 0-based, right and bottom edges exclusive, in pixels or in fractions of the image. An image's id is
    the index of its first line among the images, counted from 0.

    Args:
        root: Folder of the data set.
        split: Chooses the file (train.csv, train_labels.csv, train/_annotations.csv, train-annotations-bbox.csv), or
            the rows of annotations.csv whose column `split` says so.
        annotations: The file, where it is another.
        images: Folder that the images' names are relative to; where None, the file's folder, `root`, and their folders
            images, SPLIT and images/SPLIT are tried.
        classes: Names in the order of their labels; None: those of the file, sorted, which are printed.
        units: `"pixels"`, `"normalized"`, or `"auto"`: normalized if no coordinate of the file exceeds 1.
        empty: `"keep"` or `"drop"` images without objects.
        on_error: Handling of faults in the files: `"skip"` drops the object or file, `"raise"` raises an error.
        apply_exif: Apply EXIF orientation; `"auto"` does so if the columns width and height require it or are missing.

    Raises:
        DataError: No such file, a file without the needed columns, no usable image, or a fault with `on_error="raise"`.
    """

    def __init__(
        self,
        root: str | Path,
        split: str = "train",
        *,
        annotations: str | Path | None = None,
        images: str | Path | None = None,
        classes: Sequence[str] | None = None,
        units: str = "auto",
        empty: str = "keep",
        on_error: str = "skip",
        apply_exif: bool | str = "auto",
    ) -> None:
        check_choice("units", units, ("auto", "pixels", "normalized"))
        builder = AnnotationsBuilder(empty)
        log = FaultLog(on_error)
        root, annotations = split_path(Path(root), annotations)
        file = find_table(root, split, annotations)
        is_whole = annotations is None and file.parent == root and file.name in _WHOLE
        rows = with_names(_of_split(read_table(file, log), split, file, is_whole), root)
        classes = as_names(classes)
        if classes is None:
            classes = sorted({row.label for row in rows if row.box is not None and row.label})
            if not classes:
                raise DataError(no_class(f"no readable row of {file} has a class", log))
            print(f"classes found in {file}: {', '.join(classes)}")
        if units == "auto":
            units = "normalized" if _looks_normalized(rows) else "pixels"
        finder = _finder(root, file, split, images)
        reader = _Reader(file, tuple(classes), units == "normalized", log)
        grouped = _by_image(rows)
        files = finder.find_all((name, Path(split, name)) for name in grouped)
        for image_id, ((name, objects), path) in enumerate(zip(grouped.items(), files, strict=True)):
            reader.add_image(name, image_id, path, objects, builder, bool(apply_exif))
        source = f"csv {split} of {root}"
        super().__init__(source, tuple(classes), builder, log, notes=tuple(_notes(rows, units)), apply_exif=apply_exif)


class _Reader:
    """Converts the rows of an image to annotations, and invalid ones to faults."""

    def __init__(self, file: Path, classes: tuple[str, ...], normalized: bool, log: FaultLog) -> None:
        self.file = str(file)
        self.labels = {name: label for label, name in enumerate(classes, start=1)}
        self.normalized = normalized
        self.log = log

    def add_image(
        self,
        name: str,
        image_id: int,
        path: Path | None,
        rows: list[Row],
        builder: AnnotationsBuilder,
        apply_exif: bool,
    ) -> None:
        """Adds an image with its rows; a missing or broken one is skipped."""
        if path is None:
            self.log.add(
                Fault(self.file, "image missing", f"no file {shorten(name)} in the data set", line=rows[0].line)
            )
            return
        try:
            size = rows[0].size or image_size(path, apply_exif=apply_exif)
        except DataError as error:
            self.log.add(Fault(str(path), "image unreadable", str(error)))
            return
        kept = [found for row in rows if (found := self._object(row, *size)) is not None]
        boxes, labels, ignore = ([entry[k] for entry in kept] for k in range(3))
        builder.add(str(path), image_id, size, boxes, labels, ignore)  # type: ignore[arg-type]

    def _object(self, row: Row, height: int, width: int) -> tuple[Box, int, bool] | None:
        if row.box is None:
            return None
        label = self.labels.get(row.label)
        if label is None:
            detail = f"{row.label!r:.80} is not one of {shorten(', '.join(self.labels))}"
            self.log.add(Fault(self.file, "unknown class", detail, line=row.line))
            return None
        x1, y1, x2, y2 = row.box
        if self.normalized:
            x1, y1, x2, y2 = x1 * width, y1 * height, x2 * width, y2 * height
        box, kind, detail = fit_box((x1, y1, x2, y2), height, width)
        if kind:
            self.log.add(Fault(self.file, kind, detail, line=row.line))
        return None if box is None else (box, label, row.ignore)


def _notes(rows: list[Row], units: str) -> Iterator[str]:
    if units == "normalized":
        yield "coordinates read as normalized, 0 .. 1 of the image"
    if without := Counter(row.label for row in rows if row.box is None and row.label):
        names = ", ".join(f"{shorten(name, 40)} {count}" for name, count in without.most_common(5))
        yield f"{without.total()} rows have a class but no box, and give their image no object: {names}"


def _finder(root: Path, file: Path, split: str, images: str | Path | None) -> ImageFinder:
    if images is not None:
        return ImageFinder(root, [root / images if (root / images).is_dir() else Path(images)], given=True)
    below = ["", "images", *(folder for name in aliases(split) for folder in (name, f"images/{name}"))]
    return ImageFinder(root, [base / name for base in (file.parent, root) for name in below])


def find_table(root: Path, split: str, annotations: str | Path | None) -> Path:
    """Returns the CSV file of a split.

    Raises:
        DataError: There is no such file; the message says what was expected and found.
    """
    if annotations is not None:
        file = root / annotations if (root / annotations).is_file() else Path(annotations)
        if not file.is_file():
            raise DataError(f"annotations names {annotations}, a file that is neither there nor in {root}")
        return file
    names = aliases(split)
    for file in [root / pattern.format(name) for name in names for pattern in _FILES] + [root / f for f in _WHOLE]:
        if file.is_file():
            return file
    tables = sorted(root.glob("*.csv"))
    if split == "all" and len(tables) == 1:
        return tables[0]
    raise NoSplitError(
        f"{root} has no CSV of the split {split!r}: expected {split}.csv, or annotations.csv with a column split, "
        f"{describe_folder(root)}. Another file is given with annotations=FILE.",
        tuple(sorted({name for table in tables if (name := split_of_file(table.relative_to(root)))})),
    )


def _of_split(rows: list[Row], split: str, file: Path, is_whole: bool) -> list[Row]:
    if not any(row.split for row in rows):
        if is_whole and split != "all":
            raise NoSplitError(
                f"{file} holds all splits, so it needs a column split with the value {split!r}, or must be split into "
                "{split}.csv and others; the split 'all' is all of its rows"
            )
        return rows
    names = aliases(split)
    chosen = [row for row in rows if split == "all" or (row.split or "").lower() in names]
    if not chosen:
        splits = tuple(sorted({row.split for row in rows if row.split}))
        raise NoSplitError(f"{file} has no row of the split {split!r}; splits found: {', '.join(splits)}", splits)
    return chosen


def _looks_normalized(rows: list[Row]) -> bool:
    largest = max((max(row.box) for row in rows if row.box is not None), default=0.0)
    return 0.0 < largest <= _FRACTION


def _by_image(rows: list[Row]) -> dict[str, list[Row]]:
    grouped: dict[str, list[Row]] = {}
    for row in rows:
        grouped.setdefault(row.image, []).append(row)
    return grouped
