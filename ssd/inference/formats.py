"""Formats of `ssd predict`: JSON, CSV and those of annotation tools, written image by image from the parts."""

from __future__ import annotations

import csv
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any
from xml.etree import ElementTree

import yaml

from ssd.common.atomic_write import write_atomically

Entry = dict[str, Any]  # `Result.to_dict`
OUTPUTS = ("detections.json", "detections.csv", "coco.json", "yolo", "voc")  # besides drawn images and videos
_JPEG = (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".webp", ".heic", ".heif", ".hif", ".avif")  # drawn as JPEG
_MAX_STEM_BYTES = 120
_NOT_IN_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
_COLUMNS = ("image", "width", "height", "label", "score", "xmin", "ymin", "xmax", "ymax")


def write_formats(
    folder: Path, formats: Sequence[str], classes: Sequence[str], entries: Callable[[], Iterator[Entry]]
) -> tuple[int, int]:
    """Writes detections.json and further formats, with one entry in memory at a time.

    `ssd train` reads these formats if the images are next to them:

    - csv: detections.csv, one detection per line; for videos also the number and the time of the frame.
    - coco: coco.json with images, categories and annotations, each with its score.
    - yolo: yolo/labels/STEM.txt with `class cx cy width height score`, and yolo/data.yaml with the class names; the
      images belong into yolo/images.
    - voc: voc/Annotations/STEM.xml.

    STEM is that of the image, with a number in front if it occurs more than once; a frame is called STEM-000012.

    Args:
        folder: Output folder.
        formats: Any of csv, coco, yolo and voc; others are ignored.
        classes: Class names without the background.
        entries: Returns an iterator over the entries; it is called several times.

    Returns:
        Numbers of images and of objects.
    """
    images = objects = 0
    stems: Counter[str] = Counter()
    has_frames = False
    for entry in entries():
        images += 1
        objects += len(entry["detections"])
        has_frames = has_frames or "frame" in entry
        if "yolo" in formats or "voc" in formats:
            stems[_stem(entry).lower()] += 1
    write_atomically(folder / "detections.json", lambda file: _write_list(file, entries()))
    if "csv" in formats:
        _write_csv(folder / "detections.csv", has_frames, entries())
    if "coco" in formats:
        write_atomically(folder / "coco.json", lambda file: _write_coco(file, classes, entries))
    digits = len(str(images))

    def named() -> Iterator[tuple[str, Entry]]:
        for number, entry in enumerate(entries(), start=1):
            name = _stem(entry)
            if stems[name.lower()] > 1:
                name = f"{number:0{digits}d}-{name}"
                while name.lower() in stems:  # another image is called that
                    name = f"{number:0{digits}d}-{name}"
            yield name, entry

    if "yolo" in formats:
        _write_yolo(folder / "yolo", classes, named())
    if "voc" in formats:
        annotations = _empty_folder(folder / "voc" / "Annotations", "*.xml")
        for stem, entry in named():
            _voc_tree(entry).write(annotations / f"{stem}.xml", encoding="utf-8")
    return images, objects


def drawing_name(number: int, total: int, file: Path | str | None, is_video: bool) -> str:
    """Returns the name of a drawn image or video; numbered, so that it does not replace an image beside it."""
    is_jpeg = file is not None and Path(file).suffix.lower() in _JPEG
    suffix = ".mp4" if is_video else ".jpg" if is_jpeg else ".png"
    return f"{number:0{len(str(total))}d}-{short_stem(file)}{suffix}"


def short_stem(file: Path | str | None) -> str:
    """Returns a name for files about an image, without its suffix; "image" for none."""
    name = str(file or "")
    stem = re.sub(r"\W+", "-", name).strip("-") if "://" in name else Path(name).stem
    return os.fsencode(stem)[:_MAX_STEM_BYTES].decode(errors="ignore") or "image"


def _empty_folder(folder: Path, pattern: str) -> Path:
    # Without files of a stopped command, whose names may differ.
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.glob(pattern):
        path.unlink()
    return folder


def _stem(entry: Entry) -> str:
    return short_stem(entry["file"]) + (f"-{entry['frame']:06d}" if "frame" in entry else "")


def _image_name(entry: Entry) -> str:
    # A frame has no file; this is how one that is extracted would be called.
    return f"{_stem(entry)}.jpg" if "frame" in entry else str(entry["file"])


def _json(value: Any) -> bytes:
    """Returns JSON with letters of all languages as they are, unless a file name is not text, only bytes."""
    text = json.dumps(value, ensure_ascii=False)
    return (json.dumps(value) if re.search("[\ud800-\udfff]", text) else text).encode()


def _write_list(file: IO[bytes], values: Iterable[Any]) -> None:
    file.write(b"[")
    for number, value in enumerate(values):
        file.write((b",\n " if number else b"\n ") + _json(value))
    file.write(b"\n]\n")


def _write_csv(path: Path, has_frames: bool, entries: Iterable[Entry]) -> None:
    with open(path, "w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        writer = csv.writer(file)
        writer.writerow((*_COLUMNS, *(("frame", "time") if has_frames else ())))
        for entry in entries:
            image = (entry["file"], entry["width"], entry["height"])
            frame = (entry.get("frame"), entry.get("time")) if has_frames else ()
            writer.writerows((*image, d["label"], d["score"], *d["box"], *frame) for d in entry["detections"])


def _write_coco(file: IO[bytes], classes: Sequence[str], entries: Callable[[], Iterator[Entry]]) -> None:
    ids = {name: number for number, name in enumerate(classes, start=1)}
    file.write(b'{"images": ')
    _write_list(
        file,
        (
            {"id": number, "file_name": _image_name(entry), "width": entry["width"], "height": entry["height"]}
            for number, entry in enumerate(entries(), start=1)
        ),
    )
    file.write(b', "categories": ' + _json([{"id": number, "name": name} for name, number in ids.items()]))
    file.write(b', "annotations": ')
    found = ((image_id, d) for image_id, entry in enumerate(entries(), start=1) for d in entry["detections"])
    _write_list(
        file, ({"id": number, **_annotation(image_id, d, ids)} for number, (image_id, d) in enumerate(found, start=1))
    )
    file.write(b"}\n")


def _annotation(image_id: int, detection: Entry, ids: dict[str, int]) -> Entry:
    x1, y1, x2, y2 = detection["box"]
    box = [x1, y1, round(x2 - x1, 2), round(y2 - y1, 2)]
    annotation = {"image_id": image_id, "category_id": ids[detection["label"]], "bbox": box, "area": box[2] * box[3]}
    return {**annotation, "iscrowd": 0, "score": detection["score"]}


def _write_yolo(folder: Path, classes: Sequence[str], named: Iterable[tuple[str, Entry]]) -> None:
    labels = _empty_folder(folder / "labels", "*.txt")
    about = {"path": ".", "train": "images", "val": "images", "names": list(classes)}
    names = yaml.safe_dump(about, allow_unicode=True, sort_keys=False)
    (folder / "data.yaml").write_text(names, encoding="utf-8")
    indices = {name: index for index, name in enumerate(classes)}
    for stem, entry in named:
        width, height = entry["width"], entry["height"]
        lines = []
        for d in entry["detections"]:
            x1, y1, x2, y2 = d["box"]
            box = ((x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height)
            lines.append(f"{indices[d['label']]} {' '.join(f'{v:.6f}' for v in box)} {d['score']:.4f}\n")
        (labels / f"{stem}.txt").write_text("".join(lines), encoding="utf-8")


def _voc_tree(entry: Entry) -> ElementTree.ElementTree[Any]:
    root = ElementTree.Element("annotation")
    if entry["file"]:
        ElementTree.SubElement(root, "filename").text = xml_text(Path(_image_name(entry)).name)
    size = ElementTree.SubElement(root, "size")
    for key, value in (("width", entry["width"]), ("height", entry["height"]), ("depth", 3)):
        ElementTree.SubElement(size, key).text = str(value)
    for d in entry["detections"]:
        node = ElementTree.SubElement(root, "object")
        ElementTree.SubElement(node, "name").text = xml_text(d["label"])
        ElementTree.SubElement(node, "score").text = f"{d['score']:.4f}"
        corners = ElementTree.SubElement(node, "bndbox")
        for key, value, base in zip(("xmin", "ymin", "xmax", "ymax"), d["box"], (1, 1, 0, 0), strict=True):
            ElementTree.SubElement(corners, key).text = f"{value + base:.2f}"  # PASCAL VOC counts pixels from 1
    ElementTree.indent(root)
    return ElementTree.ElementTree(root)


def xml_text(text: str) -> str:
    """Returns a string for XML, with control characters and bytes that are not UTF-8 escaped."""
    return _NOT_IN_XML.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
