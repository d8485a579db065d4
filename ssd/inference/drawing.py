"""Draws boxes on images, and grids of images."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ssd.common.class_names import display_name
from ssd.data.loading.pil_images import from_pil, to_pil

_COLORS = (
    "#e6194b",
    "#3cb44b",
    "#4363d8",
    "#f58231",
    "#911eb4",
    "#008080",
    "#9a6324",
    "#800000",
    "#808000",
    "#000075",
)
_GOLDEN_RATIO = 0.618034  # multiples of it never repeat a hue
_Font = ImageFont.FreeTypeFont | ImageFont.ImageFont  # the latter if PIL was built without FreeType
_MIN_CROP = 160  # pixels
_MAX_NAME = 30  # characters of a class name on a box


def color_of(label: int) -> str:
    """Returns the color of a class as `"#rrggbb"`, distinct for each label from 1 on."""
    if label <= len(_COLORS):
        return _COLORS[label - 1]
    step = label - len(_COLORS)
    rgb = colorsys.hsv_to_rgb(step * _GOLDEN_RATIO % 1, (0.9, 0.6)[step % 2], (0.9, 0.65, 0.45)[step % 3])
    return "#" + "".join(f"{round(255 * part):02x}" for part in rgb)


def draw_boxes(
    image: Tensor,  # [3, H, W]
    boxes: Tensor,  # [N, 4] xyxy
    labels: Tensor,  # [N]
    classes: Sequence[str],
    scores: Tensor | None = None,  # [N]
) -> Tensor:
    """Draws boxes with their class names on a copy of an image.

    Args:
        image: uint8 RGB.
        boxes: Boxes in pixels of the image, clipped to it.
        labels: Labels, 1 for the first of `classes`.
        classes: Class names without the background.
        scores: Scores to print after the class names.

    Returns:
        uint8 `[3, H, W]`; the image itself if there are no boxes.
    """
    if len(boxes) == 0:
        return image
    height, width = image.shape[1:]
    canvas = to_pil(image)
    draw = ImageDraw.Draw(canvas)
    shorter = min(height, width)
    line = max(1, round(shorter / 250))
    font = ImageFont.load_default(max(10, round(shorter / 32)))
    limit = torch.tensor([width - 1, height - 1, width - 1, height - 1])
    corners = boxes.cpu().float().nan_to_num(0.0).clamp(min=0).minimum(limit)
    corners = torch.cat([corners[:, :2], torch.maximum(corners[:, 2:], corners[:, :2])], dim=1)
    # In ascending order of score, so that the best box is on top; text is on top of all boxes.
    rows = range(len(corners)) if scores is None else scores.argsort().tolist()
    for row in rows:
        draw.rectangle(corners[row].tolist(), outline=color_of(int(labels[row])), width=line)
    for row in rows:
        text = display_name(classes[int(labels[row]) - 1], _MAX_NAME)
        if isinstance(font, ImageFont.ImageFont):
            text = text.encode("latin-1", "replace").decode("latin-1")
        if scores is not None:
            text = f"{text} {float(scores[row]):.2f}"
        _write_label(draw, text, corners[row].tolist(), color_of(int(labels[row])), font, (width, height))
    return from_pil(canvas).contiguous()


def _write_label(
    draw: ImageDraw.ImageDraw,
    text: str,
    box: list[float],
    color: str,
    font: _Font,
    size: tuple[int, int],
) -> None:
    """Writes a label above a box, or inside it at the top of the image, shifted to stay within the image."""
    left, top, right, bottom = _extent(draw, text, font)
    width, height = right - left + 4, bottom - top + 4
    x = max(0.0, min(box[0], size[0] - width))
    y = box[1] - height if box[1] >= height else min(box[1], max(0.0, size[1] - height))
    draw.rectangle([x, y, x + width - 1, y + height - 1], fill=color)
    red, green, blue = (int(color[i : i + 2], 16) for i in (1, 3, 5))
    ink = "white" if 0.299 * red + 0.587 * green + 0.114 * blue < 140 else "black"
    draw.text((x + 2 - left, y + 2 - top), text, fill=ink, font=font)


def _extent(draw: ImageDraw.ImageDraw, text: str, font: _Font) -> tuple[float, float, float, float]:
    # The same height for every text, so that all labels look alike.
    left, _, right, _ = draw.textbbox((0, 0), text, font=font)
    _, top, _, bottom = draw.textbbox((0, 0), "Ag", font=font)
    return left, top, right, bottom


def crop_around(image: Tensor, box: Tensor) -> tuple[Tensor, Tensor]:
    """Crops a square around a box.

    Args:
        image: uint8 `[3, H, W]`.
        box: `[4]` xyxy in its pixels.

    Returns:
        The crop, uint8 `[3, h, w]`, with three times the longer side of the box and at least 160 pixels, clipped to the
        image; and the offset `[4]` to subtract from boxes.
    """
    height, width = image.shape[1:]
    limit = torch.tensor([width, height, width, height])
    x1, y1, x2, y2 = box.float().nan_to_num(0.0).clamp(min=0).minimum(limit).tolist()
    side = max(3 * max(x2 - x1, y2 - y1), _MIN_CROP)
    left = int(max(0, min((x1 + x2 - side) / 2, width - side)))
    top = int(max(0, min((y1 + y2 - side) / 2, height - side)))
    part = image[:, top : int(min(height, top + side)), left : int(min(width, left + side))]
    return part.contiguous(), torch.tensor([left, top, left, top])


def side_by_side(
    left: Tensor,  # [3, H, W]
    right: Tensor,  # [3, H, W]
) -> Tensor:
    """Returns two images of one size next to each other, uint8 `[3, H, 2 W + 4]`."""
    gap = torch.full((3, left.shape[1], 4), 255, dtype=torch.uint8)
    return torch.cat([left.cpu(), gap, right.cpu()], dim=2)


def resize(
    image: Tensor,  # [3, H, W]
    width: int,
) -> Tensor:
    """Returns the image scaled to a width, uint8 `[3, h, width]`."""
    height = max(1, round(image.shape[1] * width / image.shape[2]))
    return from_pil(to_pil(image).resize((width, height), Image.Resampling.BILINEAR)).contiguous()


def save_grid(images: Sequence[Tensor], path: Path, columns: int = 2, width: int = 640) -> None:
    """Saves images `[3, H, W]` in a grid, each scaled to one width and padded to one height, with 8 pixels around each."""
    scaled = [resize(image, width) for image in images]
    max_height = max(image.shape[1] for image in scaled)
    columns, gap = min(columns, len(scaled)), 8
    rows = -(-len(scaled) // columns)
    grid = torch.full((3, gap + rows * (max_height + gap), gap + columns * (width + gap)), 255, dtype=torch.uint8)
    for index, image in enumerate(scaled):
        row, column = divmod(index, columns)
        top, left = gap + row * (max_height + gap), gap + column * (width + gap)
        grid[:, top : top + image.shape[1], left : left + width] = image
    to_pil(grid).save(path)
