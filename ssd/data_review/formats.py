"""Files for annotation tools: CVAT's XML with corrected annotations, Label Studio's tasks with predictions."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote
from xml.sax.saxutils import escape, quoteattr

from ssd.data import DetectionDataset
from ssd.data_review.findings import Finding
from ssd.data_review.report import Review, ReviewReport
from ssd.inference.formats import xml_text


class _Box(NamedTuple):
    label: str
    box: tuple[float, float, float, float]
    score: float | None  # score of a correction; None for an unchanged annotation


def cvat_xml(report: ReviewReport, root: Path) -> str:
    """Returns the corrected annotations of all images as "CVAT for images 1.1".

    Corrected and added boxes have the source "auto", the others "manual".

    Args:
        report: Result of `review_data`.
        root: Folder that names of images are relative to.
    """
    names = dict.fromkeys(name for review in report.reviews for name in review.dataset.classes)
    lines = ['<?xml version="1.0" encoding="utf-8"?>', "<annotations>", "  <version>1.1</version>"]
    lines += ["  <meta>", "    <task>", "      <labels>"]
    lines += [f"        <label><name>{escape(xml_text(name))}</name></label>" for name in names]
    lines += ["      </labels>", "    </task>", "  </meta>"]
    number = 0
    for review in report.reviews:
        corrections, files = _by_image(review), _names(review.dataset, root)
        for index in range(len(review.dataset)):
            height, width = (int(side) for side in review.dataset.annotations.sizes[index])
            name = _attribute(files[index])
            lines.append(f'  <image id="{number}" name={name} width="{width}" height="{height}">')
            for label, (x1, y1, x2, y2), score in _corrected(review, index, corrections.get(index, [])):
                source = "manual" if score is None else "auto"
                corners = f'xtl="{x1:.2f}" ytl="{y1:.2f}" xbr="{x2:.2f}" ybr="{y2:.2f}"'
                lines.append(
                    f'    <box label={_attribute(label)} source="{source}" occluded="0" {corners} z_order="0"></box>'
                )
            lines.append("  </image>")
            number += 1
    return "\n".join([*lines, "</annotations>", ""])


def label_studio_tasks(report: ReviewReport, root: Path) -> list[dict[str, Any]]:
    """Returns tasks for the images with findings: the annotations, and corrected ones as predictions.

    Images are named as local files below `root`. The labels are those of a RectangleLabels control "label" for an image
    "image".

    Args:
        report: Result of `review_data`.
        root: Value of LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT.
    """
    tasks = []
    for review in report.reviews:
        names = _names(review.dataset, root)
        for index, findings in sorted(_by_image(review).items()):
            size = tuple(int(side) for side in review.dataset.annotations.sizes[index])
            before = [_rectangle(item, n, size) for n, item in enumerate(_corrected(review, index, []))]
            after = [_rectangle(item, n, size) for n, item in enumerate(_corrected(review, index, findings))]
            score = max(finding.score for finding in findings)
            tasks.append(
                {
                    "data": {"image": f"/data/local-files/?d={quote(names[index], errors='surrogateescape')}"},
                    "annotations": [{"result": before}],
                    "predictions": [{"model_version": "ssd data review", "score": round(score, 4), "result": after}],
                }
            )
    return tasks


def _attribute(text: str) -> str:
    return quoteattr(xml_text(text))


def _rectangle(item: _Box, number: int, size: tuple[int, ...]) -> dict[str, Any]:
    height, width = size
    x1, y1, x2, y2 = item.box
    percent = {"x": 100 * x1 / width, "y": 100 * y1 / height}
    percent |= {"width": 100 * (x2 - x1) / width, "height": 100 * (y2 - y1) / height}
    result: dict[str, Any] = {
        "id": f"object{number}",
        "type": "rectanglelabels",
        "from_name": "label",
        "to_name": "image",
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
        "value": {**{k: round(v, 4) for k, v in percent.items()}, "rotation": 0, "rectanglelabels": [item.label]},
    }
    return result if item.score is None else {**result, "score": round(item.score, 4)}


def _corrected(review: Review, index: int, findings: list[Finding]) -> Iterator[_Box]:
    # the annotations of an image with the corrections that the findings propose
    notes, classes = review.dataset.annotations, review.dataset.classes
    of_object = {finding.object_index: finding for finding in findings if finding.object_index is not None}
    first, end = notes.span(index)
    for row in range(first, end):
        x1, y1, x2, y2 = (float(value) for value in notes.boxes[row])
        finding = of_object.get(row - first)
        if finding is None:
            yield _Box(classes[int(notes.labels[row]) - 1], (x1, y1, x2, y2), None)
        else:
            box = finding.box if finding.kind == "misplaced" else (x1, y1, x2, y2)
            yield _Box(classes[finding.label - 1], box, finding.score)
    for finding in findings:
        if finding.object_index is None:
            yield _Box(classes[finding.label - 1], finding.box, finding.score)


def _by_image(review: Review) -> dict[int, list[Finding]]:
    found: dict[int, list[Finding]] = {}
    for finding in review.findings:
        found.setdefault(finding.image, []).append(finding)
    return found


def _names(dataset: DetectionDataset, root: Path) -> list[str]:
    # of images outside of the folder, the path without the steps out of it
    return [re.sub(r"^(\.\./)+", "", name) for name in dataset.relative_names(root)]
