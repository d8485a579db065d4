"""Output folder of `ssd predict`: detections.json, drawn images, and the formats of annotation tools."""

from __future__ import annotations

import csv
import json
import os
import re
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import yaml

from ssd.atomic_write import write_text
from ssd.inference.result import Result

_JPEG = (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".webp", ".heic", ".heif", ".hif", ".avif")  # drawn as JPEG
_WRITE_INTERVAL = 30  # seconds between writes of detections.json
_MAX_STEM_BYTES = 120
_NOT_IN_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
_COLUMNS = ("image", "width", "height", "label", "score", "xmin", "ymin", "xmax", "ymax")


class Output:
    """Writes results into a folder one by one; `close` completes the files that contain all of them.

    detections.json is always written, periodically and at the end, and drawn images go into the same folder. `ssd train`
    reads the other formats if the images are next to them:

    - csv: detections.csv, one detection per line.
    - coco: coco.json with images, categories and annotations, each with its score.
    - yolo: yolo/labels/STEM.txt with `class cx cy width height score`, and yolo/data.yaml with the class names; the
      images belong into yolo/images.
    - voc: voc/Annotations/STEM.xml.

    Args:
        folder: Output folder; results of a previous command are removed.
        formats: Any of images, csv, coco, yolo and voc.
        classes: Class names without the background.
        files: Images whose results follow, in order. Output files have their stems, prefixed by a number if a stem
            occurs more than once.
    """

    def __init__(self, folder: Path, formats: Sequence[str], classes: Sequence[str], files: Sequence[Path]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        remove_results(folder)
        self.folder = folder
        self.formats = formats
        self.classes = list(classes)
        self.entries: list[dict[str, Any]] = []
        self.files = files
        self.stems = _unique_stems(files)
        self._number = 0
        self._written = time.monotonic()
        self._table: Any = None
        for name in ("yolo/labels", "voc/Annotations"):
            if name.partition("/")[0] in formats:
                (folder / name).mkdir(parents=True, exist_ok=True)
        if "csv" in formats:
            self._table = open(folder / "detections.csv", "w", newline="", encoding="utf-8", errors="backslashreplace")
            csv.writer(self._table).writerow(_COLUMNS)
        if "yolo" in formats:
            about = {"path": ".", "train": "images", "val": "images", "names": self.classes}
            names = yaml.safe_dump(about, allow_unicode=True, sort_keys=False)
            (folder / "yolo" / "data.yaml").write_text(names, encoding="utf-8")

    def add(self, result: Result) -> str | None:
        """Writes the result of the next file; returns an error message if it could not be read or drawn, else None."""
        self._number += 1
        stem, error = self.stems[self._number - 1], result.error
        if error is not None:
            return error
        entry = result.to_dict()
        if "images" in self.formats:
            suffix = ".jpg" if result.file is not None and result.file.suffix.lower() in _JPEG else ".png"
            # Numbered, so that an image is not overwritten if it is in the same folder.
            name = f"{self._number:0{len(str(len(self.files)))}d}-{_short_stem(self.files[self._number - 1])}{suffix}"
            error = _try_to_draw(result, self.folder / name)
            entry |= {} if error else {"picture": name}
        self.entries.append(entry)
        if self._table is not None:
            writer = csv.writer(self._table)
            size = (entry["width"], entry["height"])
            writer.writerows((result.file, *size, d["label"], d["score"], *d["box"]) for d in entry["detections"])
        if "yolo" in self.formats:
            (self.folder / "yolo" / "labels" / f"{stem}.txt").write_text(_yolo_lines(result), encoding="utf-8")
        if "voc" in self.formats:
            _voc_tree(result).write(self.folder / "voc" / "Annotations" / f"{stem}.xml", encoding="utf-8")
        if time.monotonic() - self._written > _WRITE_INTERVAL:
            self._write_json()
            self._written = time.monotonic()
        return error

    def close(self) -> None:
        """Completes all files."""
        self._write_json()
        if self._table is not None:
            self._table.close()
        if "coco" in self.formats:
            write_text(self.folder / "coco.json", _readable_json(self._coco()) + "\n")

    def _write_json(self) -> None:
        write_text(self.folder / "detections.json", json.dumps(self.entries, indent=1) + "\n")

    def _coco(self) -> dict[str, Any]:
        ids = {name: number for number, name in enumerate(self.classes, start=1)}
        images = [
            {"id": number, "file_name": entry.get("file", ""), "width": entry["width"], "height": entry["height"]}
            for number, entry in enumerate(self.entries, start=1)
        ]
        boxes = [(number, found) for number, e in enumerate(self.entries, start=1) for found in e["detections"]]
        annotations = []
        for number, (image_id, found) in enumerate(boxes, start=1):
            x1, y1, x2, y2 = found["box"]
            box = [x1, y1, round(x2 - x1, 2), round(y2 - y1, 2)]
            annotation = {"id": number, "image_id": image_id, "category_id": ids[found["label"]], "bbox": box}
            annotations.append({**annotation, "area": box[2] * box[3], "iscrowd": 0, "score": found["score"]})
        categories = [{"id": number, "name": name} for name, number in ids.items()]
        return {"images": images, "categories": categories, "annotations": annotations}


def _readable_json(data: Any) -> str:
    """Returns JSON with letters of all languages as they are, unless a name of a file is no text, only bytes."""
    text = json.dumps(data, ensure_ascii=False)
    return json.dumps(data) if re.search("[\ud800-\udfff]", text) else text


def _xml_text(text: str) -> str:
    """Returns a text with what XML cannot hold, control characters and bytes that are no text, written as escapes."""
    return _NOT_IN_XML.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def _short_stem(file: Path) -> str:
    return os.fsencode(file.stem)[:_MAX_STEM_BYTES].decode(errors="ignore") or "image"


def _unique_stems(files: Sequence[Path]) -> list[str]:
    stems = [_short_stem(file) for file in files]
    counts = Counter(stem.lower() for stem in stems)
    digits = len(str(len(stems)))
    return [stem if counts[stem.lower()] == 1 else f"{i:0{digits}d}-{stem}" for i, stem in enumerate(stems, start=1)]


def _yolo_lines(result: Result) -> str:
    height, width = result.size
    lines = []
    rows = zip(result.labels.tolist(), result.boxes.tolist(), result.scores.tolist(), strict=True)
    for label, (x1, y1, x2, y2), score in rows:
        box = ((x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height)
        lines.append(f"{label - 1} {' '.join(f'{value:.6f}' for value in box)} {score:.4f}\n")
    return "".join(lines)


def _voc_tree(result: Result) -> ElementTree.ElementTree[Any]:
    root = ElementTree.Element("annotation")
    if result.file is not None:
        ElementTree.SubElement(root, "filename").text = _xml_text(result.file.name)
    size = ElementTree.SubElement(root, "size")
    for key, value in zip(("width", "height", "depth"), (result.size[1], result.size[0], 3), strict=True):
        ElementTree.SubElement(size, key).text = str(value)
    for name, score, box in zip(result.names, result.scores.tolist(), result.boxes.tolist(), strict=True):
        node = ElementTree.SubElement(root, "object")
        ElementTree.SubElement(node, "name").text = _xml_text(name)
        ElementTree.SubElement(node, "score").text = f"{score:.4f}"
        corners = ElementTree.SubElement(node, "bndbox")
        for key, value, base in zip(("xmin", "ymin", "xmax", "ymax"), box, (1, 1, 0, 0), strict=True):
            ElementTree.SubElement(corners, key).text = f"{value + base:.2f}"  # PASCAL VOC counts pixels from 1
    ElementTree.indent(root)
    return ElementTree.ElementTree(root)


def _try_to_draw(result: Result, path: Path) -> str | None:
    options: dict[str, Any] = {"quality": 90} if path.suffix == ".jpg" else {"compress_level": 3}
    try:
        result.plot().save(path, **options)
    except (OSError, ValueError) as error:  # the disk is full, or the image exceeds JPEG's 65,500 pixels per side
        path.unlink(missing_ok=True)
        return f"image {path} cannot be written: {getattr(error, 'strerror', None) or error}"
    return None


def remove_results(folder: Path) -> None:
    """Removes the results of a previous command from a folder, and nothing else."""
    file = folder / "detections.json"
    try:
        entries = json.loads(file.read_text(encoding="utf-8"))
        drawings = [str(entry["picture"]) for entry in entries if "picture" in entry]
    except (OSError, ValueError, TypeError, KeyError):
        return  # there are none, or they are of another program
    for name in drawings:
        if Path(name).name == name:
            (folder / name).unlink(missing_ok=True)
    for pattern in ("detections.csv", "coco.json", "yolo/data.yaml", "yolo/labels/*.txt", "voc/Annotations/*.xml"):
        for path in folder.glob(pattern):
            path.unlink()
    file.unlink()
