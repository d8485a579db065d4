"""Pictures of detections beside the truth."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torchvision.transforms.functional import to_pil_image
from torchvision.utils import draw_bounding_boxes, make_grid

_COLOURS = (
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


def draw_boxes(
    image: Tensor, boxes: Tensor, labels: Tensor, classes: Sequence[str], scores: Tensor | None = None
) -> Tensor:
    """Draw boxes on a copy of an image.

    Args:
        image: uint8 `[3, H, W]`.
        boxes: `[G, 4]` xyxy in its pixels.
        labels: `[G]`, 1 for the first of `classes`.
        classes: Names without the background.
        scores: `[G]` or None; written behind the name.

    Returns:
        uint8 `[3, H, W]`.
    """
    if len(boxes) == 0:
        return image
    height, width = image.shape[1:]
    limit = torch.tensor([width - 1, height - 1, width - 1, height - 1])
    boxes = boxes.cpu().clamp(min=0).minimum(limit)
    boxes = torch.cat([boxes[:, :2], torch.maximum(boxes[:, 2:], boxes[:, :2])], dim=1)
    texts = [classes[int(label) - 1] for label in labels]
    if scores is not None:
        texts = [f"{text} {float(score):.2f}" for text, score in zip(texts, scores, strict=True)]
    colours = [_COLOURS[(int(label) - 1) % len(_COLOURS)] for label in labels]
    return draw_bounding_boxes(image.cpu(), boxes, texts, colors=colours, width=max(1, width // 250))


def side_by_side(truth: Tensor, found: Tensor) -> Tensor:
    """Put two images of one size next to each other, uint8 `[3, H, 2 W + 4]`."""
    gap = torch.full((3, truth.shape[1], 4), 255, dtype=torch.uint8)
    return torch.cat([truth.cpu(), gap, found.cpu()], dim=2)


def save_grid(pictures: Sequence[Tensor], path: Path, columns: int = 2, width: int = 640) -> None:
    """Save pictures in a grid as PNG, each scaled to one width and padded to one height."""
    scaled = []
    for picture in pictures:
        height = max(1, round(picture.shape[1] * width / picture.shape[2]))
        resized = torch.nn.functional.interpolate(
            picture[None].float(), size=(height, width), mode="bilinear", antialias=True, align_corners=False
        )
        scaled.append(resized[0].round().clamp(0, 255).to(torch.uint8))
    tallest = max(p.shape[1] for p in scaled)
    padded = [torch.nn.functional.pad(p, (0, 0, 0, tallest - p.shape[1]), value=255) for p in scaled]
    to_pil_image(make_grid(padded, nrow=columns, padding=8, pad_value=255)).save(path)
