"""Detection in tiles of a large image, whose small objects would vanish when the whole image is resized.

A view is a part of an image that the network sees at once: the whole image, which finds objects larger than a tile, and
each tile. Neighboring tiles overlap. A box at a border between tiles may be a part of an object only; `merge` keeps one
box of each object.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral

import torch
from torch import Tensor

import ssd_ops

View = tuple[int, int, int, int]  # x1, y1, x2, y2 in pixels of the image
_AGREE = 0.5  # minimum IoU of two views of one object


@dataclass(frozen=True)
class Tiling:
    """Size of tiles and by how much neighbors overlap, in pixels of the image."""

    size: int
    overlap: int

    @classmethod
    def of(cls, tile: int | Sequence[int]) -> Tiling:
        """Returns the tiling of an option `SIZE` or `(SIZE, OVERLAP)`; the default overlap is a fifth of the size.

        Raises:
            ValueError: The numbers are out of range.
        """
        given = tuple(tile) if isinstance(tile, Sequence) else (tile,)
        are_integers = all(isinstance(number, Integral) for number in given)
        size, overlap = (*given, given[0] // 5)[:2] if are_integers and given else (0, 0)
        if len(given) > 2 or size < 1 or not 0 <= overlap < size:
            raise ValueError(f"tile must be SIZE or SIZE, OVERLAP in pixels with 0 <= OVERLAP < SIZE, got {tile!r}")
        return cls(int(size), int(overlap))

    def views(self, height: int, width: int) -> list[View]:
        """Returns the whole image and, unless it fits into one tile, its tiles row by row."""
        whole = (0, 0, width, height)
        if max(height, width) <= self.size:
            return [whole]
        side = self.size
        rows, columns = self._starts(height), self._starts(width)
        return [whole] + [(x, y, min(x + side, width), min(y + side, height)) for y in rows for x in columns]

    def _starts(self, length: int) -> list[int]:
        # The last tile ends with the image, so that all tiles have one size.
        step, last = self.size - self.overlap, max(length - self.size, 0)
        return [*range(0, last, step), last]


def merge(
    outputs: Sequence[dict[str, Tensor]],
    views: Sequence[View],
    iou_threshold: float | None,
    suppress_equal: bool = False,
) -> dict[str, Tensor]:
    """Merges the detections of the views of one image.

    Complete boxes, those away from borders inside the image, are merged by NMS; after Soft-NMS, which leaves objects that
    overlap, see `_once`. A box at such a border is dropped if a complete box of its class agrees with it inside its view;
    other boxes of neighboring tiles that agree in the part that both see are joined to the smallest box around them. Boxes
    agree if their IoU is at least 0.5.

    Args:
        outputs: For each view a dict of boxes `[N, 4]` (xyxy in pixels of the view), labels `[N]` and scores `[N]`.
        views: The views.
        iou_threshold: IoU threshold of NMS; None after Soft-NMS.
        suppress_equal: As in `ssd_ops.nms`.

    Returns:
        boxes, labels and scores in descending order of score, in pixels of the image; the output itself if there is
        one view.
    """
    if len(views) == 1:
        return dict(outputs[0])
    corners = torch.tensor(views, dtype=torch.float32)
    of_view = torch.arange(len(views)).repeat_interleave(torch.tensor([len(o["labels"]) for o in outputs]))
    seen = corners[of_view]  # [N, 4]
    boxes = torch.cat([output["boxes"] for output in outputs]) + seen[:, :2].repeat(1, 2)
    labels, scores = (torch.cat([output[name] for output in outputs]) for name in ("labels", "scores"))
    cut = _is_cut(boxes, seen, corners[0])
    rest = ~cut
    if iou_threshold is None:
        keep = _once(boxes[rest], scores[rest], labels[rest], of_view[rest])
    else:
        keep = ssd_ops.batched_nms(
            boxes[rest], scores[rest], labels[rest], iou_threshold, suppress_equal=suppress_equal
        )
    kept = (boxes[rest][keep], labels[rest][keep], scores[rest][keep])
    pieces = _without_known(boxes[cut], labels[cut], seen[cut], kept[0], kept[1])
    joined = _join(boxes[cut][pieces], labels[cut][pieces], scores[cut][pieces], seen[cut][pieces])
    boxes, labels, scores = (torch.cat(pair) for pair in zip(kept, joined, strict=True))
    if iou_threshold is None:
        # Neither kept boxes nor joined ones repeat each other.
        source = (torch.arange(len(boxes)) >= len(kept[0])).long()
        keep = _once(boxes, scores, labels, source)
    else:
        keep = ssd_ops.batched_nms(boxes, scores, labels, iou_threshold, suppress_equal=suppress_equal)
    return {"boxes": boxes[keep], "labels": labels[keep], "scores": scores[keep]}


def _once(boxes: Tensor, scores: Tensor, labels: Tensor, views: Tensor) -> Tensor:
    """Returns the boxes to keep, in descending order of score: of each object one, whichever views see it.

    A kept box stands for at most one box of each other view, so two objects that overlap remain if one view sees both.
    """
    kept: list[int] = []
    seen_by: list[set[int]] = []  # views of each kept box
    for i in scores.argsort(descending=True, stable=True).tolist():
        overlap = ssd_ops.box_iou(boxes[kept], boxes[i, None])[:, 0].where(labels[kept] == labels[i], 0.0)
        view = int(views[i])
        agree = [j for j in torch.nonzero(overlap >= _AGREE).flatten().tolist() if view not in seen_by[j]]
        if agree:
            seen_by[max(agree, key=overlap.tolist().__getitem__)].add(view)
        else:
            kept.append(i)
            seen_by.append({view})
    return torch.tensor(kept, dtype=torch.int64)


def _is_cut(boxes: Tensor, seen: Tensor, whole: Tensor) -> Tensor:
    # Whether a side is at a border of the view that is inside the image; predicted boxes are not exact to a pixel.
    margin = 1 + 0.01 * (seen[:, 2:] - seen[:, :2]).amax(dim=1, keepdim=True)
    near = (boxes - seen).abs() <= margin
    return (near & (seen != whole)).any(dim=1)


def _without_known(pieces: Tensor, labels: Tensor, seen: Tensor, boxes: Tensor, box_labels: Tensor) -> Tensor:
    # Indices of the pieces that are not part of a complete box. One piece at a time: memory grows with the boxes only.
    left = []
    for i, piece in enumerate(pieces):
        same = boxes[box_labels == labels[i]]
        if not (ssd_ops.box_iou(_clipped(same, seen[i]), piece[None]) >= _AGREE).any():
            left.append(i)
    return torch.tensor(left, dtype=torch.int64)


def _join(boxes: Tensor, labels: Tensor, scores: Tensor, seen: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    # Each group of pieces becomes one box with the label and the highest score of its pieces.
    group = list(range(len(boxes)))

    def root(i: int) -> int:
        while group[i] != i:
            i = group[i]
        return i

    for i in range(len(boxes)):
        others = torch.nonzero((labels[:i] == labels[i]) & (seen[:i] != seen[i]).any(dim=1)).flatten()
        mine = _clipped(boxes[i].expand(len(others), 4), seen[others])
        theirs = _clipped(boxes[others], seen[i])
        agree = (
            ssd_ops.box_iou(mine[:, None], theirs[:, None]).flatten() >= _AGREE
        )  # of pairs only, not of all with all
        for j in others[agree].tolist():
            group[root(i)] = root(j)
    members: dict[int, list[int]] = {}
    for i in range(len(boxes)):
        members.setdefault(root(i), []).append(i)
    joined = [torch.cat([boxes[rows, :2].amin(0), boxes[rows, 2:].amax(0)]) for rows in members.values()]
    best = [scores[rows].amax() for rows in members.values()]
    return (
        torch.stack(joined) if joined else boxes,
        labels[list(members)],
        torch.stack(best) if best else scores,
    )


def _clipped(boxes: Tensor, view: Tensor) -> Tensor:
    # Parts of the boxes inside views; empty ones have no area and so an IoU of 0.
    low, high = torch.maximum(boxes[:, :2], view[..., :2]), torch.minimum(boxes[:, 2:], view[..., 2:])
    return torch.cat([low, torch.maximum(high, low)], dim=1)
