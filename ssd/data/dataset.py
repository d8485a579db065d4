"""The base class of all data sets: images with targets, class names, and a report of faults."""

import copy
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset

from ssd.common.class_names import describe_alike, display_name
from ssd.data.annotations import Annotations, AnnotationsBuilder
from ssd.data.faults import DataError, Fault, FaultLog, list_faults, shorten
from ssd.data.formats.folders import split_path
from ssd.data.loading.encoded_images import EncodedImage
from ssd.data.loading.images import SizeError, decode_image, encoded_or_decoded, read_bytes
from ssd.data.orientation import check_apply_exif, find_orientation

Target = dict[str, Any]
_Image = TypeVar("_Image")
_LISTED_CLASSES = 20  # classes in a printed summary


@dataclass(frozen=True)
class Summary:
    """Counts of a data set; `print` shows them in a few lines."""

    name: str
    images: int
    empty_images: int  # images with no object, or with ignored ones only
    dropped_images: int  # images without objects, dropped by empty="drop"
    objects: int  # including ignored ones
    ignored: int
    per_class: dict[str, int]  # without the ignored ones
    faults: dict[str, int]  # kind -> count
    report: tuple[Fault, ...]
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        ranked = sorted(self.per_class.items(), key=lambda item: -item[1])
        listed = self.per_class.items() if len(ranked) <= _LISTED_CLASSES else ranked[:_LISTED_CLASSES]
        classes = ", ".join(f"{display_name(name)} {count}" for name, count in listed)
        if len(ranked) > _LISTED_CLASSES:
            least = ranked[-1][1]
            classes = f"most objects have {classes}; the {len(ranked) - _LISTED_CLASSES} others down to {least}"
        lines = [
            f"{self.name}: {self.images} images ({self.empty_images} without objects"
            + (f", {self.dropped_images} more dropped" if self.dropped_images else "")
            + f"), {self.objects} objects ({self.ignored} ignored)",
            f"  {len(self.per_class)} classes: {classes}",
        ]
        lines += [f"  note: {note}" for note in self.notes]
        if self.faults:
            lines.append("  faults: " + ", ".join(f"{kind} {count}" for kind, count in sorted(self.faults.items())))
            lines += ["  " + line for line in list_faults(list(self.report), limit=10).splitlines()]
        return "\n".join(lines)


class ImageError(DataError):
    """An image that cannot be used; carries its `Fault`."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(str(fault))
        self.fault = fault

    def __reduce__(self) -> tuple[type["ImageError"], tuple[Fault]]:
        # Exceptions are rebuilt from their args when they cross a process border; args holds the text, not the fault.
        return ImageError, (self.fault,)


class DetectionDataset(Dataset[tuple[Tensor, Target]]):
    """A detection data set with its annotations in memory; images are read on access.

    `dataset[i]` is `(image, target)`: image uint8 `[3, H, W]` RGB; target a dict with `boxes` float32
    `[G, 4]` (xyxy in pixels, 0-based, right and bottom edges exclusive), `labels` int64 `[G]` (1 .. C - 1, 0 is
    background), `ignore` bool `[G]` (difficult or crowd) and `image_id` int. An image that cannot be read
    raises `ImageError`; `build_loader` turns that into a skipped image and an entry in `report`.

    Args:
        name: Name for messages, such as `"voc train of /data/bccd"`.
        classes: Names without the background; label i is `classes[i - 1]`.
        builder: Builder with the annotations of all images, or the annotations.
        log: The faults found while reading, and whether they are skipped or raised.
        notes: Remarks for the summary.
        apply_exif: Whether to rotate images as their EXIF orientation says; `"auto"` decides by the annotated sizes.

    Attributes:
        apply_exif: Whether images are rotated by EXIF if their annotated size does not decide it; prediction on similar
            images should do the same.
        decides_by_size: Whether the annotated size of an image decides on its EXIF orientation where it can.
        num_listed: Images that the files of the data set list, including those dropped because of faults.

    Raises:
        DataError: There is a fault with `on_error="raise"`, or no usable image.
    """

    def __init__(
        self,
        name: str,
        classes: tuple[str, ...],
        builder: AnnotationsBuilder | Annotations,
        log: FaultLog,
        *,
        notes: tuple[str, ...] = (),
        apply_exif: bool | str = False,
    ) -> None:
        check_apply_exif(apply_exif)
        if twice := next((key for key, count in Counter(classes).items() if count > 1), None):
            raise DataError(f"{name} names the class {twice!r:.80} twice")
        self.name = name
        self.classes = classes
        self.annotations = builder if isinstance(builder, Annotations) else builder.build(log, name)
        self.log = log
        self.num_listed = len(self.annotations) + log.images_skipped
        self.dropped_images = 0 if isinstance(builder, Annotations) else builder.dropped
        self.decides_by_size = apply_exif == "auto"
        self.apply_exif, remark = find_orientation(apply_exif, self.annotations.files, self.annotations.sizes)
        self.notes = (*notes, *filter(None, (remark, describe_alike(classes))))
        self._index_of: dict[int, int] | None = None

    @property
    def num_classes(self) -> int:
        """Number of classes with the background."""
        return len(self.classes) + 1

    @property
    def report(self) -> list[Fault]:
        """The faults found so far, each named with its file."""
        return self.log.faults

    def __len__(self) -> int:
        return len(self.annotations)

    def __getitem__(self, index: int) -> tuple[Tensor, Target]:
        return self.load_image(index), self.target(index)

    def target(self, index: int) -> Target:
        """Returns the target of image `index` without reading the image."""
        return self.annotations.target(index)

    def index_of(self, image_id: int) -> int:
        """Returns the index of the image that has this id."""
        if self._index_of is None:
            self._index_of = {int(key): index for index, key in enumerate(self.annotations.image_ids)}
        return self._index_of[int(image_id)]

    def load_image(self, index: int) -> Tensor:
        """Reads image `index`: uint8 `[3, H, W]`.

        Raises:
            ImageError: It cannot be read, or its size is not the one that the annotations declare, in which case the
                boxes belong to another image. `error.fault` is the `Fault`.
        """
        return self._read(index, decode_image)

    def encoded_sample(self, index: int) -> tuple[Tensor | EncodedImage, Target]:
        """Returns `self[index]`, with the image still encoded if it is a JPEG file that GPUs decode.

        Raises:
            ImageError: See `load_image`; damage that the header does not show is found when the image is decoded.
        """
        own = type(self)
        if own.load_image is not DetectionDataset.load_image or own.__getitem__ is not DetectionDataset.__getitem__:
            return self[index]  # its images are not those of its files
        return self._read(index, encoded_or_decoded), self.target(index)

    def _read(self, index: int, decode: Callable[..., _Image]) -> _Image:
        file = str(self.annotations.files[index])
        height, width = (int(v) for v in self.annotations.sizes[index])
        try:
            content = self.encoded(index)
            return decode(content, file, apply_exif=self.apply_exif, size=(height, width), either=self.decides_by_size)
        except SizeError as error:
            raise ImageError(Fault(file, "image of another size", str(error))) from None
        except DataError as error:
            raise ImageError(Fault(file, "image unreadable", str(error))) from None

    def encoded(self, index: int) -> np.ndarray:
        """Returns the content of image file `index`, uint8 `[N]`.

        Raises:
            DataError: It cannot be read.
        """
        return read_bytes(str(self.annotations.files[index]))

    def relative_names(self, root: str | Path) -> list[str]:
        """Returns a name of each image that does not depend on where the data set is: its path below `root`, with "/".

        Args:
            root: Folder of the data set, or its data.yaml, JSON or CSV file, which gives the names of the folder.
        """
        folder, _ = split_path(Path(root), None)
        return [os.path.relpath(str(file), folder).replace(os.sep, "/") for file in self.annotations.files]

    def subset(self, rows: Sequence[int], name: str) -> "DetectionDataset":
        """Returns a data set of some of the images, with its own log for later faults.

        Args:
            rows: Indices of the images, in the wanted order.
            name: Name for messages.
        """
        part = copy.copy(self)
        part.name = name
        part.annotations = self.annotations.subset(rows)
        part.log = FaultLog(self.log.mode)
        part.num_listed = len(part.annotations)
        part.dropped_images = 0
        part._index_of = None
        return part

    def with_classes(self, classes: tuple[str, ...]) -> "DetectionDataset":
        """Returns a data set with the classes of another one, among which are all of its own; labels change with them."""
        part = copy.copy(self)
        labels = np.array([0, *(classes.index(name) + 1 for name in self.classes)], dtype=np.int64)
        part.annotations = replace(self.annotations, labels=labels[self.annotations.labels])
        part.classes = classes
        if absent := [display_name(name) for name in classes if name not in self.classes]:
            part.notes = (*self.notes, f"has no class {shorten(', '.join(absent))}")
        return part

    def class_counts(self) -> dict[str, int]:
        """Returns the number of objects of each class, ignored ones not counted."""
        labels = self.annotations.labels[~self.annotations.ignore]
        counts = np.bincount(labels, minlength=self.num_classes)
        return {name: int(counts[label]) for label, name in enumerate(self.classes, start=1)}

    def summary(self) -> Summary:
        """Returns the counts of images, objects and faults."""
        per_image = self.annotations.trainable_counts()
        return Summary(
            name=self.name,
            images=len(self),
            empty_images=int((per_image == 0).sum()),
            dropped_images=self.dropped_images,
            objects=len(self.annotations.labels),
            ignored=int(self.annotations.ignore.sum()),
            per_class=self.class_counts(),
            faults=dict(self.log.counts),
            report=tuple(self.report),
            notes=self.notes,
        )
