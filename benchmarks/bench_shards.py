"""Data sets of `ssd data pack`: start with many images, memory shared by workers, and reading from tar files.

python benchmarks/bench_shards.py [--images N] [--quick] [--json FILE]

All data is generated. Start: the annotations of N images (default: a million) with 7 objects each are opened as arrays,
and for comparison a hundredth of them as COCO JSON; then what training needs from all annotations before its first step.
Memory: what each of 4 worker processes adds to that of its parent (USS: memory of no other process) after it has read the
targets of all images, for arrays mapped from files and for a list of dicts as many data sets keep. Reading: JPEG files
against the same files in tar files, in random order, from the cache of the system, with equal content checked first.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import time
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import _path  # noqa: F401
import numpy as np
import torch
from PIL import Image

from benchmarks.machine import describe
from benchmarks.saving import save
from ssd.common.atomic_write import write_text
from ssd.data import Annotations, DetectionDataset, open_dataset
from ssd.data.formats.shard_files import INDEX, VERSION, arrays_folder
from ssd.data.pack import pack, write_arrays
from ssd.engine.setup import normalized_objects

OBJECTS, CLASSES, SIDES = 7, 80, (480, 640)
WORKERS = 4


def annotations(images: int) -> Annotations:
    """Returns annotations of N images with 7 objects each."""
    draw = np.random.default_rng(0)
    low = draw.uniform(0, 400, (images * OBJECTS, 2)).astype(np.float32)
    return Annotations(
        files=np.char.add(np.char.zfill(np.arange(images).astype("U12"), 12), ".jpg"),
        image_ids=np.arange(images),
        sizes=np.tile(np.array(SIDES), (images, 1)),
        boxes=np.hstack([low, low + draw.uniform(4, 80, low.shape).astype(np.float32)]),
        labels=draw.integers(1, CLASSES + 1, images * OBJECTS),
        ignore=np.zeros(images * OBJECTS, dtype=bool),
        offsets=np.arange(images + 1) * OBJECTS,
    )


def write_index(folder: Path, notes: Annotations) -> None:
    """Writes a data set without images."""
    write_arrays(notes, None, arrays_folder(folder, "train"))
    split = {"shards": [], "apply_exif": False, "by_size": False}
    classes = [str(i) for i in range(CLASSES)]
    index = {
        "version": VERSION,
        "classes": classes,
        "format": "coco",
        "source": str(folder),
        "splits": {"train": split},
    }
    write_text(folder / INDEX, json.dumps(index))


def write_coco(folder: Path, notes: Annotations) -> None:
    """Writes the same annotations as COCO JSON."""
    sizes = {"width": SIDES[1], "height": SIDES[0]}
    images = [{"id": i, "file_name": str(file), **sizes} for i, file in enumerate(notes.files)]
    rows = zip(notes.boxes.tolist(), notes.labels.tolist(), strict=True)
    objects = [
        {"id": n, "image_id": n // OBJECTS, "category_id": label, "bbox": [x1, y1, x2 - x1, y2 - y1], "iscrowd": 0}
        for n, ((x1, y1, x2, y2), label) in enumerate(rows)
    ]
    categories = [{"id": i + 1, "name": str(i)} for i in range(CLASSES)]
    text = json.dumps({"images": images, "annotations": objects, "categories": categories})
    write_text(folder / "instances_train.json", text)
    for file in notes.files:
        (folder / str(file)).touch()


def seconds(call: Callable[[], Any]) -> tuple[float, Any]:
    """Returns the time of a call, and its result."""
    began = time.perf_counter()
    result = call()
    return time.perf_counter() - began, result


def start(folder: Path, images: int) -> dict[str, float]:
    """Measures the time to open annotations, and to compute what training needs from them, in seconds."""
    small = max(1, images // 100)
    (folder / "coco").mkdir()
    (folder / "arrays").mkdir()
    write_index(folder / "arrays", annotations(images))
    write_coco(folder / "coco", annotations(small))
    opened, dataset = seconds(lambda: open_dataset("shards", folder / "arrays"))
    summary, _ = seconds(dataset.summary)
    objects, _ = seconds(lambda: normalized_objects(dataset))
    order, _ = seconds(lambda: torch.randperm(len(dataset)))
    parsed, _ = seconds(lambda: open_dataset("coco", folder / "coco"))
    names = {"open": opened, "summary": summary, "objects for priors": objects, "order of an epoch": order}
    return {**names, "in all": sum(names.values()), f"open COCO JSON of {small} images": parsed}


def memory(folder: Path) -> dict[str, float]:
    """Returns the memory that a worker process has for itself after reading all targets, in MB."""
    mapped = open_dataset("shards", folder / "arrays")
    targets = [mapped.target(index) for index in range(0, len(mapped), 10)]
    lists = [{"boxes": target["boxes"].tolist(), "labels": target["labels"].tolist()} for target in targets]
    del targets
    return {
        "arrays, all images": _worker_memory(lambda: _take(map(mapped.target, range(len(mapped))))),
        "list of dicts, a tenth of the images": _worker_memory(lambda: _take(box for t in lists for box in t["boxes"])),
    }


def _take(items: Iterable[object]) -> None:
    deque(items, maxlen=0)


def _worker_memory(read: Callable[[], object]) -> float:
    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()
    workers = [context.Process(target=_measure, args=(read, results)) for _ in range(WORKERS)]
    for worker in workers:
        worker.start()
    used = [float(results.get()) for _ in workers]
    for worker in workers:
        worker.join()
    return sum(used) / WORKERS


def _measure(read: Callable[[], object], results: Any) -> None:
    torch.zeros(1).clone()  # what torch allocates at its first use
    before = _own_memory()
    read()
    results.put(_own_memory() - before)


def _own_memory() -> float:
    rows = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(row.split()[1]) for row in rows if row.startswith("Private_")) / 1000


def reading(folder: Path, count: int) -> dict[str, float]:
    """Returns images per second decoded from files and from tar files."""
    (folder / "jpeg").mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (count, 24, 32, 3), dtype=np.uint8)
    names = [f"{row:06}.jpg" for row in range(count)]
    for name, pixels in zip(names, noise, strict=True):
        Image.fromarray(pixels).resize(SIDES[::-1]).save(folder / "jpeg" / name, quality=90)
    rows = "".join(f"{name},1,1,100,100,thing\n" for name in names)
    (folder / "jpeg" / "train.csv").write_text(f"image,xmin,ymin,xmax,ymax,label\n{rows}")
    files = open_dataset("csv", folder / "jpeg")
    pack({"train": files}, folder / "tar", folder, "coco", shard_bytes=4_000_000)
    shards = open_dataset("shards", folder / "tar")
    assert all(torch.equal(files.load_image(row), shards.load_image(row)) for row in range(count))
    return {"files": _rate(files), "tar files": _rate(shards)}


def _rate(dataset: DetectionDataset) -> float:
    order = list(range(len(dataset)))
    random.Random(0).shuffle(order)
    taken = min(seconds(lambda: _take(map(dataset.load_image, order)))[0] for _ in range(3))
    return len(dataset) / taken


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1_000_000, help="images of the annotations")
    parser.add_argument("--quick", action="store_true", help="a thousand images, for tests")
    parser.add_argument("--json", type=Path, help="file for the results")
    arguments = parser.parse_args()
    images, read = (1000, 4) if arguments.quick else (arguments.images, 300)
    torch.set_num_threads(1)
    with TemporaryDirectory() as folder:
        parts = {
            f"start with {images} images, seconds": start(Path(folder), images),
            "memory of each worker, MB": memory(Path(folder)),
            "reading, images per second": reading(Path(folder), read),
        }
    report = {"machine": describe(torch.device("cpu"), 1), **parts}
    for title, values in parts.items():
        print(title, *(f"  {name:40} {value:10.3f}" for name, value in values.items()), sep="\n")
    save(arguments.json, report)


if __name__ == "__main__":
    main()
