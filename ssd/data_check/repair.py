"""Writes a repaired copy of a data set, as COCO files; the original is only read.

Not copied: images that cannot be read or have another size than annotated, second copies of an image (of one in
two splits, that in the training split), boxes that the reader rejects, objects annotated twice. What is changed: boxes
end at the border of their image, and images with an EXIF orientation are stored rotated, in the coordinates of their boxes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ssd.data import DataError, DetectionDataset
from ssd.data.loading.pil_images import to_pil
from ssd.data_check.encodings import KINDS
from ssd.data_check.images import ImageFacts
from ssd.data_check.objects import repeated_rows
from ssd.data_check.report import CheckReport

_WRITTEN = {
    ".jpg": {"quality": 95, "subsampling": 0},
    ".jpeg": {"quality": 95, "subsampling": 0},
    ".png": {},
    ".bmp": {},
}


@dataclass
class Repairs:
    """Counts of what was written and changed."""

    folder: Path
    images: int = 0
    objects: int = 0
    images_skipped: int = 0
    copies_skipped: int = 0
    objects_of_copies: int = 0
    repeated_objects: int = 0
    rotated: int = 0
    files: list[Path] = field(default_factory=list)

    def __str__(self) -> str:
        return (
            f"repaired copy: {self.folder}, {self.images} images with {self.objects} objects; skipped "
            f"{self.images_skipped} images that cannot be used, {self.copies_skipped} copies of images (with "
            f"{self.objects_of_copies} objects), {self.repeated_objects} objects annotated twice; {self.rotated} images "
            "stored upright"
        )


def check_target(folder: Path, data_path: Path) -> None:
    """Raises `DataError` if a copy in this folder could overwrite the original or other files."""
    source = data_path if data_path.is_dir() else data_path.parent
    if folder.resolve().is_relative_to(source.resolve()):
        raise DataError(f"--fix {folder} is inside the data set; name a folder outside of {source}")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(f"--fix {folder} must be a new or empty folder")


def write_repaired(report: CheckReport, folder: Path) -> Repairs:
    """Writes `annotations/instances_SPLIT.json` and `SPLIT/` with the images of each split.

    Args:
        report: Result of `check_data`.
        folder: New or empty folder.

    Raises:
        DataError: The entire data set has an error that needs to be fixed by hand first.
    """
    if errors := sorted(set(KINDS) & set(report.counts)):
        raise DataError(
            f"--fix cannot repair an error of the entire data set ({', '.join(errors)}, see above); fix it by hand first"
        )
    repairs = Repairs(folder)
    (folder / "annotations").mkdir(parents=True)
    elsewhere = _digests_of_evaluation(report)
    for split, dataset in report.datasets.items():
        dropped = elsewhere if split == "train" else set()
        data = _write_split(dataset, report.images[split], folder / split, dropped, repairs)
        file = folder / "annotations" / f"instances_{split}.json"
        file.write_text(json.dumps(data) + "\n", encoding="utf-8")
        repairs.files.append(file)
    return repairs


def _digests_of_evaluation(report: CheckReport) -> set[bytes]:
    others = (facts for split, images in report.images.items() if split != "train" for facts in images)
    return {facts.digest for facts in others if facts.fault is None}


def _write_split(
    dataset: DetectionDataset, facts: Sequence[ImageFacts], folder: Path, dropped: set[bytes], repairs: Repairs
) -> dict[str, Any]:
    folder.mkdir()
    seen, names = set(dropped), set[str]()
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for index, about in enumerate(facts):
        if about.fault is not None:
            repairs.images_skipped += 1
            continue
        if about.digest in seen:
            repairs.copies_skipped += 1
            repairs.objects_of_copies += len(dataset.target(index)["labels"])
            continue
        seen.add(about.digest)
        name = _write_image(dataset, index, about, folder, names)
        repairs.rotated += about.orientation > 1
        height, width = (int(side) for side in dataset.annotations.sizes[index])
        images.append({"id": len(images) + 1, "file_name": name, "width": width, "height": height})
        rows, repeated = _rows(dataset, index)
        repairs.repeated_objects += repeated
        annotations += [_entry(dataset, row, len(annotations) + n, len(images)) for n, row in enumerate(rows, start=1)]
    repairs.images += len(images)
    repairs.objects += len(annotations)
    unused = getattr(dataset, "unused_labels", ())
    named = enumerate(dataset.classes, start=1)
    categories = [{"id": label, "name": name} for label, name in named if label not in unused]
    return {"images": images, "annotations": annotations, "categories": categories}


def _write_image(dataset: DetectionDataset, index: int, about: ImageFacts, folder: Path, names: set[str]) -> str:
    source = Path(about.file)
    suffix = source.suffix if about.orientation <= 1 or source.suffix.lower() in _WRITTEN else ".jpg"
    name, number = source.stem + suffix, 1
    while name.casefold() in names:  # two folders have an image of this name
        number += 1
        name = f"{source.stem}-{number}{suffix}"
    names.add(name.casefold())
    if about.orientation <= 1:
        dataset.encoded(index).tofile(folder / name)
    else:
        options: dict[str, Any] = _WRITTEN[suffix.lower()]
        to_pil(dataset.load_image(index)).save(folder / name, **options)
    return name


def _rows(dataset: DetectionDataset, index: int) -> tuple[list[int], int]:
    """Returns the objects to keep, and the number of repeated ones."""
    notes = dataset.annotations
    first, end = notes.span(index)
    repeated = repeated_rows(notes.boxes[first:end].astype(float), notes.labels[first:end])
    return [row for row in range(first, end) if row - first not in repeated], len(repeated)


def _entry(dataset: DetectionDataset, row: int, number: int, image_id: int) -> dict[str, Any]:
    notes = dataset.annotations
    x1, y1, x2, y2 = (float(value) for value in np.round(notes.boxes[row].astype(float), 3))
    box = [x1, y1, round(x2 - x1, 3), round(y2 - y1, 3)]
    area = box[2] * box[3] if notes.coco is None else float(notes.coco[row, 4])
    entry = {"id": number, "image_id": image_id, "category_id": int(notes.labels[row]), "bbox": box}
    return {**entry, "area": round(area, 3), "iscrowd": int(notes.ignore[row])}
