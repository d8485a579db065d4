"""A page with images of the findings, the most certain ones of each kind first; one HTML file."""

from __future__ import annotations

import base64
import html
import io

import torch
from PIL import ImageDraw

from ssd.data import DataError
from ssd.data.loading.pil_images import to_pil
from ssd.data_review.findings import KINDS, Finding
from ssd.data_review.report import Review, ReviewReport
from ssd.inference.drawing import crop_around

_SIDE = 240  # pixels of a thumbnail
_DASH = 6  # pixels
_TITLES = {
    "unlabeled": "Objects without annotation",
    "mislabeled": "Objects with another class",
    "misplaced": "Boxes that do not fit their object",
}
_STYLE = """
body { font: 15px/1.4 system-ui, sans-serif; margin: 2em; background: Canvas; color: CanvasText; color-scheme: light dark }
section { display: grid; grid-template-columns: repeat(auto-fill, minmax(15em, 1fr)); gap: 1em }
figure { margin: 0 } img { width: 100%; border-radius: 4px } figcaption { font-size: 12px; overflow-wrap: anywhere }
"""


def review_page(report: ReviewReport, max_images: int) -> str:
    """Returns the page as HTML.

    Args:
        report: Result of `review_data`.
        max_images: Maximum number of images of each kind.
    """
    parts = [
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>Review of annotations</title>',
        f"<style>{_STYLE}</style></head><body><h1>Review of annotations</h1>",
        "<p>Orange: what the detector proposes. White: annotations; dashed: that of the object in question.</p>",
    ]
    for kind in KINDS:
        pairs = report.ranked(kind)
        shown = f", the first {max_images}" if len(pairs) > max_images else ""
        parts.append(f"<h2>{_TITLES[kind]}: {len(pairs)}{shown}</h2>\n<section>")
        parts += [_figure(review, finding) for review, finding in pairs[:max_images]]
        parts.append("</section>")
    return "\n".join([*parts, "</body></html>\n"])


def _figure(review: Review, finding: Finding) -> str:
    before = review.annotated(finding)
    name = html.escape(review.dataset.classes[finding.label - 1])
    what = name if before is None or finding.kind == "misplaced" else f"{html.escape(before[0])} → {name}"
    file = html.escape(str(review.dataset.annotations.files[finding.image]))
    where = "" if finding.object_index is None else f", object {finding.object_index}"
    try:
        image = f'<img alt="{name}" src="data:image/jpeg;base64,{_thumbnail(review, finding)}">'
    except DataError as error:
        image = html.escape(str(error))
    return f"<figure>{image}<figcaption><b>{what}</b> {finding.score:.2f}<br>{file}{where}</figcaption></figure>"


def _thumbnail(review: Review, finding: Finding) -> str:
    image = review.dataset.load_image(finding.image)
    part, offset = crop_around(image, torch.tensor(finding.box))
    thumbnail = to_pil(part)
    scale = _SIDE / max(thumbnail.size)
    thumbnail = thumbnail.resize((max(1, round(thumbnail.width * scale)), max(1, round(thumbnail.height * scale))))
    draw = ImageDraw.Draw(thumbnail)
    boxes = review.dataset.target(finding.image)["boxes"]
    for index, box in enumerate((boxes - offset).mul(scale).tolist()):
        if index == finding.object_index:
            _dashed(draw, box)
        else:
            draw.rectangle(box, outline="white", width=1)
    draw.rectangle([value * scale for value in (torch.tensor(finding.box) - offset).tolist()], outline="#f60", width=3)
    file = io.BytesIO()
    thumbnail.save(file, "JPEG", quality=80)
    return base64.b64encode(file.getvalue()).decode("ascii")


def _dashed(draw: ImageDraw.ImageDraw, box: list[float]) -> None:
    x1, y1, x2, y2 = (round(value) for value in box)
    for x in range(x1, x2, 2 * _DASH):
        for y in (y1, y2):
            draw.line([x, y, min(x + _DASH, x2), y], fill="white", width=2)
    for y in range(y1, y2, 2 * _DASH):
        for x in (x1, x2):
            draw.line([x, y, x, min(y + _DASH, y2)], fill="white", width=2)
