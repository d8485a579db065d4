"""Recognizes formats of annotations that are not read, and says how to convert them. Standard library only."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

_BYTES = 1 << 16  # of the start of a file, in which the content of a format is looked for
_FILES = 20  # of one suffix that are opened
_CSV = "write a CSV file with the columns image, xmin, ymin, xmax, ymax, label"
_DATUMARO = "convert the folder with Datumaro (datum convert -i FOLDER -f coco -o OUTPUT -- --save-media)"


class _Format(NamedTuple):
    name: str
    path: str  # regular expression for the end of a path
    content: bytes  # regular expression for the start of the file
    advice: str


# The first that fits is named.
_FORMATS = (
    _Format("a pointer of Git LFS", r"\.\w+", rb"\Aversion https://git-lfs", "git lfs pull downloads the files"),
    _Format(
        "an export of VGG Image Annotator (VIA)",
        r"\.(json|csv)",
        rb"shape_attributes\b",
        f"in VIA, export in COCO format, which keeps classes chosen by radio button or dropdown; or {_CSV}",
    ),
    _Format(
        "CreateML's JSON",
        r"\.json",
        rb'"coordinates"\s*:\s*\{',
        f"export as COCO where the tool can; or {_CSV} (x and y of CreateML are the center of a box)",
    ),
    _Format(
        "the metadata of Hugging Face's imagefolder",
        r"(^|/)metadata\.(jsonl|csv|parquet)",
        b"",
        f"{_CSV}, for each split (objects.bbox is x, y, width, height)",
    ),
    _Format(
        "Label Studio's JSON",
        r"\.json",
        rb'"rectanglelabels"\s*:',
        "in Label Studio, export as COCO, YOLO or Pascal VOC XML",
    ),
    _Format(
        "CVAT's own XML",
        r"\.xml",
        rb"<annotations\b[\s\S]*<(meta|image|track)\b",
        f"in CVAT, export as COCO, Pascal VOC or YOLO; or {_DATUMARO}",
    ),
    _Format(
        "a project of VoTT",
        r"\.(json|vott)",
        rb'"assets?"\s*:\s*\{',
        "in VoTT, export as Pascal VOC or Comma Separated",
    ),
    _Format(
        "FiftyOne's own JSON",
        r"\.json",
        rb'"bounding_box"\s*:\s*\[',
        "export with dataset_type=fiftyone.types.COCODetectionDataset",
    ),
    _Format(
        "Darwin's JSON of V7",
        r"\.json",
        rb'"bounding_box"\s*:\s*\{',
        "convert it with darwin-py (darwin convert coco FILES OUTPUT)",
    ),
    _Format("an export of Labelbox", r"\.(json|ndjson)", rb'"data_row"\s*:', _CSV),
    _Format("a manifest of SageMaker Ground Truth", r"\.(manifest|jsonl)", rb'"source-ref"\s*:', _CSV),
    _Format("BDD100K's JSON", r"\.json", rb'"box2d"\s*:', f"convert it with bdd100k.label.to_coco; or {_CSV}"),
    _Format("a TFRecord", r"\.tfrecords?(-\d+-of-\d+)?", b"", _DATUMARO),
    _Format("a label of KITTI", r"(^|/)label_2/[^/]+\.txt", b"", _DATUMARO),
    _Format("a list of WIDER FACE", r"(^|/)wider_face_\w+_bbx_gt\.txt", b"", _DATUMARO),
    _Format("a label of OIDv4 ToolKit", r"(^|/)Label/[^/]+\.txt", b"", f"use the CSV files of Open Images; or {_CSV}"),
    _Format("an archive", r"\.(zip|tar|tar\.gz|tgz|7z|rar|json\.gz)", b"", "extract it, and give the folder"),
)


def describe_other_format(paths: Sequence[Path]) -> str:
    """Returns which of some files has a known format that is not read, and what to do; "" for none."""
    opened: Counter[str] = Counter()
    starts: dict[Path, bytes] = {}
    for kind in _FORMATS:
        for path in paths:
            if re.search(kind.path + r"\Z", path.as_posix(), re.IGNORECASE) is None:
                continue
            if kind.content and path not in starts:
                opened[path.suffix] += 1
                starts[path] = _start_of(path) if opened[path.suffix] <= _FILES else b""
            if not kind.content or re.search(kind.content, starts[path]):
                return f"{path} is {kind.name}, which is not read: {kind.advice}"
    return ""


def _start_of(path: Path) -> bytes:
    if not path.is_file():  # a pipe would block
        return b""
    try:
        with path.open("rb") as file:
            return file.read(_BYTES).replace(b"\0", b"")  # UTF-16
    except OSError:
        return b""
