"""PASCAL VOC folders.

A folder has Annotations/*.xml, ImageSets/Main/<split>.txt (or ImageSets/<split>.txt) and JPEGImages/. A devkit with one
such folder per year is read, too, and so are XML files in the folders of other tools (see `ssd.data.formats.voc_layout`).

Coordinates. VOC counts pixels from 1 and includes the last pixel of a box, so a box from (1, 1) to (W, H) covers the
image. Three interpretations are in use, selected by `coordinates`:

* `"edges"` (default): subtract 1 from xmin and ymin only. The box is then the area that its pixels cover, 0 .. W, its
  plain width xmax - xmin is the devkit's "+1" width, and plain IoU equals the devkit's IoU to the bit.
* `"minus_one"`: subtract 1 from all four (amdegroot, qfgaohao, lufficc). Boxes lose their last row and column.
* `"as_is"`: for files that were written 0-based with exclusive right and bottom edges.

A box with xmax <= xmin or ymax <= ymin is a fault in all of them: in real files it is an accidental click, not an object
of one pixel.
"""

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path

from ssd.common.file_tree import read_regular
from ssd.data.annotations import AnnotationsBuilder, Box, fit_box
from ssd.data.dataset import DetectionDataset
from ssd.data.faults import DataError, Fault, FaultLog, check_choice, no_class, shorten
from ssd.data.formats.field_values import MAX_SIDE, as_names, is_true
from ssd.data.formats.voc_layout import VOCImage, find_images
from ssd.data.loading.images import image_size

_SHIFTS = {"edges": (1.0, 1.0, 0.0, 0.0), "minus_one": (1.0, 1.0, 1.0, 1.0), "as_is": (0.0, 0.0, 0.0, 0.0)}
_DIFFICULT = ("ignore", "keep", "drop")
_CORNERS = ("xmin", "ymin", "xmax", "ymax")


class VOCDataset(DetectionDataset):
    """A split of a PASCAL VOC folder, or a union of splits of several years.

    An image's id is its line in the split file, counted from 0 through all files of a union, so that it does not move
    when another image is skipped.

    Args:
        root: Folder with Annotations, ImageSets and JPEGImages, or a devkit folder with VOC2007, VOC2012 and so on.
        split: Name of the list, such as `"train"`, or `"all"`; in a devkit with its year, `"2007_trainval"`;
            several joined by `+`, as `"2007_trainval+2012_trainval"`.
        classes: Class names without background; None collects them from all annotations of the folders (the same for
            every split) and prints them.
        difficult: `"ignore"` flags difficult objects as ignored in training and evaluation; `"keep"` treats them like
            any other; `"drop"` removes them, so that they become background.
        coordinates: See the module.
        empty: `"keep"` or `"drop"` images without objects.
        on_error: Handling of faults in the files: `"skip"` drops the object or file, `"raise"` raises an error.
        apply_exif: Apply EXIF orientation; `"auto"` does so if the annotated sizes require it.

    Raises:
        DataError: The folder is not a VOC folder, the split is missing or empty, or a fault with `on_error="raise"`.
    """

    def __init__(
        self,
        root: str | Path,
        split: str = "train",
        *,
        classes: Sequence[str] | None = None,
        difficult: str = "ignore",
        coordinates: str = "edges",
        empty: str = "keep",
        on_error: str = "skip",
        apply_exif: bool | str = "auto",
    ) -> None:
        check_choice("difficult", difficult, _DIFFICULT)
        check_choice("coordinates", coordinates, tuple(_SHIFTS))
        builder = AnnotationsBuilder(empty)
        self.root = Path(root)
        self.difficult = difficult
        self.coordinates = coordinates
        log = FaultLog(on_error)
        images, files = find_images(self.root, split)
        classes = as_names(classes)
        if classes is None:
            classes = _find_classes(files, self.root)
            print(f"classes found in {self.root}: {', '.join(classes)}")
        reader = _Reader(tuple(classes), self, bool(apply_exif), log)
        for image_id, image in enumerate(images):
            reader.read(image, image_id, builder)
        source = f"voc {split} of {self.root}"
        notes: tuple[str, ...] = ()
        if reader.zero_based and coordinates != "as_is":
            notes = (f"{reader.zero_based} boxes begin at 0, so these files may be 0-based; see coordinates='as_is'",)
        super().__init__(source, tuple(classes), builder, log, notes=notes, apply_exif=apply_exif)


class _Reader:
    """Reads annotation files one by one into a builder, and their faults into a log."""

    def __init__(self, classes: tuple[str, ...], dataset: VOCDataset, oriented: bool, log: FaultLog) -> None:
        self.labels = {name: label for label, name in enumerate(classes, start=1)}
        self.difficult = dataset.difficult
        self.shift = _SHIFTS[dataset.coordinates]
        self.oriented = oriented  # whether sizes that files lack are those of the oriented images
        self.log = log
        self.zero_based = 0

    def read(self, entry: VOCImage, image_id: int, builder: AnnotationsBuilder) -> None:
        """Reads the annotation of an image; a fault of the whole file skips the image."""
        file, image = str(entry.annotation), entry.image
        if image is None:
            self.log.add(Fault(file, "image missing", f"no image file {entry.annotation.stem}.* of this data set"))
            return
        try:
            tree = read_xml(entry.annotation)
        except FileNotFoundError:
            self.log.add(
                Fault(file, "annotation missing", "the split lists it; an image without objects has a file too")
            )
            return
        except DataError as error:
            self.log.add(Fault(file, "annotation malformed", str(error)))
            return
        try:
            size = _size(tree) or image_size(image, apply_exif=self.oriented)
        except DataError as error:
            self.log.add(Fault(image, "image unreadable", str(error)))
            return
        boxes: list[Box] = []
        labels: list[int] = []
        ignore: list[bool] = []
        for index, item in enumerate(tree.iter("object")):
            found = self._object(item, size, file, index)
            if found is not None:
                boxes.append(found[0])
                labels.append(found[1])
                ignore.append(found[2])
        builder.add(image, image_id, size, boxes, labels, ignore)

    def _object(
        self, item: ElementTree.Element, size: tuple[int, int], file: str, index: int
    ) -> tuple[Box, int, bool] | None:
        name = (item.findtext("name") or "").strip()
        label = self.labels.get(name)
        if label is None:
            known = shorten(", ".join(self.labels))
            self.log.add(Fault(file, "unknown class", f"{shorten(name)!r} is not one of {known}", index))
            return None
        difficult = is_true(item.findtext("difficult"))
        if difficult and self.difficult == "drop":
            return None
        texts = [(item.findtext(f"bndbox/{corner}") or "").strip() for corner in _CORNERS]
        try:
            raw = tuple(map(float, texts))
        except ValueError:
            values = ", ".join(f"{corner} {text!r:.40}" for corner, text in zip(_CORNERS, texts, strict=True))
            self.log.add(Fault(file, "box not a number", values, index))
            return None
        # Judged before the shift, which would turn a box of no area into one of a single pixel.
        shift = (0.0,) * 4 if raw[2] <= raw[0] or raw[3] <= raw[1] else self.shift
        self.zero_based += raw[0] == 0 or raw[1] == 0
        shifted = (raw[0] - shift[0], raw[1] - shift[1], raw[2] - shift[2], raw[3] - shift[3])
        box, kind, detail = fit_box(shifted, *size)
        if kind:
            self.log.add(Fault(file, kind, detail, index))
        if box is None:
            return None
        return box, label, difficult and self.difficult == "ignore"


def _size(tree: ElementTree.Element) -> tuple[int, int] | None:
    # None, "read the image", for the many files whose size is missing or 0 x 0.
    try:
        height, width = int(float(tree.findtext("size/height") or 0)), int(float(tree.findtext("size/width") or 0))
    except (ValueError, OverflowError):
        return None
    return (height, width) if 0 < height <= MAX_SIDE and 0 < width <= MAX_SIDE else None


def read_xml(path: Path) -> ElementTree.Element:
    """Reads an XML file in the encoding that it declares.

    Raises:
        FileNotFoundError: No such file.
        DataError: It is not an XML file, or in an encoding that Python does not know.
    """
    try:
        raw = read_regular(path)
        try:
            return ElementTree.fromstring(raw)
        except (ValueError, LookupError):  # expat supports few encodings, Python also GBK, Shift_JIS, ...
            declared = re.match(rb"""<\?xml[^>]*encoding=["']([\w.-]+)""", raw)
            if declared is None:
                raise
            return ElementTree.fromstring(raw.decode(declared[1].decode()))
    except FileNotFoundError:
        raise
    except (ElementTree.ParseError, OSError, ValueError, LookupError, RecursionError) as error:
        raise DataError(str(error)) from None


def _find_classes(files: Sequence[Path], root: Path) -> tuple[str, ...]:
    names: set[str] = set()
    log = FaultLog()  # not that of the data set: the reader names the files that its split lists
    for path in files:
        try:
            names.update((item.findtext("name") or "").strip() for item in read_xml(path).iter("object"))
        except (DataError, OSError) as error:
            log.add(Fault(str(path), "annotation malformed", str(error)))
    names.discard("")
    if not names:
        raise DataError(no_class(f"no annotation in {root} names an object: give classes, or check the folder", log))
    return tuple(sorted(names))
