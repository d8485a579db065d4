"""Writes a data set as tar files in the layout of webdataset and arrays, for `ssd.data.formats.shards`."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ssd.common.atomic_write import write_text
from ssd.data import Annotations, DataError, DetectionDataset
from ssd.data.formats.folders import split_path
from ssd.data.formats.shard_files import INDEX, VERSION, arrays_folder
from ssd.data.formats.shards import ShardsDataset

SHARD_BYTES = 1_000_000_000


def pack(
    datasets: Mapping[str, DetectionDataset],
    folder: Path,
    root: str | Path,
    dataset_format: str,
    *,
    shard_bytes: int = SHARD_BYTES,
    images: bool = True,
) -> list[str]:
    """Writes a data set.

    Args:
        datasets: Split -> data set, with the same classes.
        folder: New or empty folder.
        root: Folder or file of the data sets, which the stored names of images are relative to.
        dataset_format: Name of their format, such as "coco", which decides on the metric of evaluations.
        shard_bytes: Size at which a tar file ends and the next one begins.
        images: Whether to write tar files; else images are read from where they are.

    Returns:
        A line for each split about what was written.

    Raises:
        DataError: The folder is not empty, the splits have different classes, or without `images`, they are in tar files.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(f"{folder} must be a new or empty folder")
    classes = next(iter(datasets.values())).classes
    if any(dataset.classes != classes for dataset in datasets.values()):
        raise DataError("the splits have different classes; name the classes by --dataset-option classes=...")
    if not images and any(isinstance(dataset, ShardsDataset) and dataset.in_tar_files for dataset in datasets.values()):
        raise DataError(f"the images of {root} are in tar files, so --no-images would lose them; leave it out")
    folder.mkdir(parents=True, exist_ok=True)
    splits, lines = {}, []
    for split, dataset in datasets.items():
        name = split.replace(os.sep, "_")
        notes, positions = dataset.annotations, None
        shards: list[str] = []
        if images:
            names = dataset.relative_names(root)
            shards, rows, positions = _write_shards(dataset, names, folder, name, shard_bytes)
            notes = replace(notes, files=np.array(names, dtype=np.str_))
            notes = notes if len(rows) == len(dataset) else notes.subset(rows)
        write_arrays(notes, positions, arrays_folder(folder, name))
        splits[name] = {"shards": shards, "apply_exif": dataset.apply_exif, "by_size": dataset.decides_by_size}
        missing = len(dataset) - len(notes)
        skipped = f", {missing} unreadable skipped" if missing else ""
        files = f"{len(shards)} tar files" if images else "annotations only"
        lines.append(f"{split}: {len(notes)} images with {len(notes.labels)} objects{skipped}; {files}")
    source = None if images else os.path.abspath(split_path(Path(root), None)[0])
    about = {"version": VERSION, "classes": list(classes), "format": dataset_format, "source": source}
    write_text(
        folder / INDEX, json.dumps({**about, "splits": splits}, indent=1, ensure_ascii=False) + "\n"
    )  # last: it makes the folder valid
    return lines


def _write_shards(
    dataset: DetectionDataset, names: list[str], folder: Path, split: str, shard_bytes: int
) -> tuple[list[str], list[int], np.ndarray]:
    """Returns the names of the tar files, the images written, and shard, offset and size of each."""
    shards: list[str] = []
    rows: list[int] = []
    positions: list[tuple[int, int, int]] = []
    images = _contents(dataset, split)
    first = next(images, None)
    while first is not None:
        shard = f"{split}-{len(shards):06}.tar"
        written = 0
        with tarfile.open(folder / shard, "w", format=tarfile.PAX_FORMAT) as tar:
            while first is not None and (not written or written < shard_bytes):
                row, suffix, content = first
                _add(tar, f"{row:09}{suffix}", content)
                about = {"file": names[row], **_about(dataset, row)}
                text = json.dumps(about, ensure_ascii=False)
                _add(tar, f"{row:09}.json", text.encode("utf-8", "backslashreplace"))  # names may not be UTF-8
                rows.append(row)
                written += len(content)
                first = next(images, None)
        with tarfile.open(folder / shard) as tar:
            found = [(m.offset_data, m.size) for m in tar if not m.name.endswith(".json")]
        positions += [(len(shards), offset, size) for offset, size in found]
        shards.append(shard)
    return shards, rows, np.array(positions, dtype=np.int64).reshape(-1, 3)


def _contents(dataset: DetectionDataset, split: str) -> Iterator[tuple[int, str, bytes]]:
    bar = tqdm(range(len(dataset)), desc=split, unit="image", mininterval=0.5, disable=None, leave=False)
    for row in bar:
        try:
            content = dataset.encoded(row).tobytes()
        except DataError:
            continue
        yield row, Path(str(dataset.annotations.files[row])).suffix.lower() or ".img", content


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def _about(dataset: DetectionDataset, row: int) -> dict[str, Any]:
    notes, target = dataset.annotations, dataset.target(row)
    height, width = (int(side) for side in notes.sizes[row])
    return {
        "image_id": int(notes.image_ids[row]),
        "width": width,
        "height": height,
        "boxes": target["boxes"].tolist(),
        "labels": [dataset.classes[label - 1] for label in target["labels"].tolist()],
        "ignore": target["ignore"].tolist(),
    }


def write_arrays(notes: Annotations, positions: np.ndarray | None, folder: Path) -> None:
    """Writes the arrays of a split to a new folder.

    Args:
        notes: Annotations; their files are stored as they are with tar files, else as absolute paths.
        positions: int64 `[N, 3]`, number of the tar file, offset and size of each image; None without tar files.
        folder: Result of `arrays_folder`.
    """
    folder.mkdir()
    arrays = {field.name: getattr(notes, field.name) for field in fields(notes)}
    if positions is None:
        arrays["files"] = np.array([os.path.abspath(str(file)) for file in notes.files], dtype=np.str_)
    else:
        arrays["positions"] = positions
    for name, array in arrays.items():
        if array is not None:
            np.save(folder / f"{name}.npy", array, allow_pickle=False)
