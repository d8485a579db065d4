"""Detection in tiles: objects at borders of tiles are found once, and a small image gives the same as without tiles."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import ssd
import ssd_ops
from ssd.inference.detector import Detector
from ssd.inference.result import Result
from ssd.inference.tiles import Tiling, merge

CLASSES = ("disc", "star")
SIDE = 100


class GrayLevels:
    """An engine that finds each gray level of an image exactly: even levels are discs, odd ones stars.

    Like a network that resizes its input, it misses what is smaller than a twelfth of the image.
    """

    def pack(self, images: Sequence[Tensor]) -> list[Tensor]:
        return list(images)

    def detect_all(self, batches: Iterator[list[Tensor]]) -> Iterator[ssd_ops.Detections]:
        for images in batches:
            found = [self.find(image) for image in images]
            longest = max(len(rows) for rows in found)
            padded = torch.stack([torch.nn.functional.pad(rows, (0, 0, 0, longest - len(rows))) for rows in found])
            counts = torch.tensor([len(rows) for rows in found])
            yield ssd_ops.Detections(padded[..., :4], padded[..., 4], padded[..., 5].long(), counts)

    def find(self, image: Tensor) -> Tensor:
        height, width = image.shape[1:]
        rows = [torch.zeros(0, 6)]
        for level in image[0].unique().tolist():
            y, x = torch.nonzero(image[0] == level, as_tuple=True)
            x1, y1, x2, y2 = int(x.min()), int(y.min()), int(x.max()) + 1, int(y.max()) + 1
            if level and max((x2 - x1) / width, (y2 - y1) / height) > 1 / 12:
                box = (x1 / width, y1 / height, x2 / width, y2 / height)
                rows.append(torch.tensor([[*box, level / 255, 1 + level % 2]]))
        return torch.cat(rows)


class OfGrayLevels(Detector):
    """A detector with this engine."""

    @property
    def engine(self) -> Any:
        return GrayLevels()


@pytest.fixture
def detector() -> Detector:
    torch.manual_seed(1)
    model = ssd.build_model("ssd_tiny", 3, image_size=64, width=4, levels=2).eval()
    return OfGrayLevels(model, CLASSES)


def image_with(boxes: Sequence[Sequence[int]], height: int = 300, width: int = 470) -> tuple[Tensor, Tensor]:
    """Returns an image with a rectangle of its own gray level for each box, and the boxes by descending level."""
    image = torch.zeros(3, height, width, dtype=torch.uint8)
    for level, (x1, y1, x2, y2) in enumerate(boxes, start=1):
        image[:, y1:y2, x1:x2] = level
    return image, torch.tensor(boxes, dtype=torch.float32).flip(0)


@pytest.mark.parametrize(
    "boxes",
    [
        [(x, y, x + 16, y + 12) for x in range(0, 450, 18) for y in (10, 75, 93, 154)],  # fit into the overlap
        [(70, 70, 105, 105), (150, 20, 190, 60), (60, 220, 130, 245)],  # longer than the overlap: seen in parts
        [(65, 65, 99, 99), (101, 65, 135, 99), (62, 101, 120, 135)],  # neighbors of one class near a corner
        [(0, 0, 470, 250), (10, 255, 30, 275)],  # larger than a tile
    ],
    ids=["small", "longer than the overlap", "neighbors", "larger than a tile"],
)
@pytest.mark.parametrize("batch_size", [1, 5])
def test_tiles_find_every_object_once_and_whole(
    boxes: list[tuple[int, int, int, int]], batch_size: int, detector: Detector
) -> None:
    image, expected = image_with(boxes)
    result = detector.predict(image, score_threshold=0.0, tile=(SIDE, 20), batch_size=batch_size)
    assert isinstance(result, Result)
    torch.testing.assert_close(result.boxes, expected, rtol=0, atol=1e-3)
    assert result.labels.tolist() == [1 + level % 2 for level in range(len(boxes), 0, -1)]
    assert (result.scores.diff() <= 0).all()


def test_tiles_find_random_objects_once_and_whole(detector: Detector) -> None:
    generator = np.random.default_rng(0)
    for _ in range(5):
        cells = [(x, y) for x in range(0, 430, 45) for y in range(0, 260, 40)]
        sizes = generator.integers(14, 40, (len(cells), 2))
        shifts = generator.integers(0, 5, (len(cells), 2))
        boxes = [
            (x + a, y + b, x + a + w, y + b + min(h, 34))
            for (x, y), (w, h), (a, b) in zip(cells, sizes.tolist(), shifts.tolist(), strict=True)
        ]
        image, expected = image_with(boxes, 300, 480)
        result = detector.predict(image, score_threshold=0.0, tile=(SIDE, 30))
        assert isinstance(result, Result)
        torch.testing.assert_close(result.boxes, expected, rtol=0, atol=1e-3)


def test_tiles_of_streamed_images_are_not_mixed(detector: Detector) -> None:
    large, small = image_with([(90, 90, 110, 110)])[0], image_with([(10, 10, 30, 30)], 50, 60)[0]
    results = list(detector.stream([large, small, large], score_threshold=0.0, tile=SIDE, batch_size=4))
    assert [result.boxes.round().int().tolist() for result in results] == [
        *([[90, 90, 110, 110]], [[10, 10, 30, 30]], [[90, 90, 110, 110]]),
    ]


@pytest.mark.parametrize("size", [(64, 64), (40, 60)])
def test_image_within_one_tile_equals_untiled(size: tuple[int, int], detector: Detector) -> None:
    detector = Detector(detector.model, CLASSES, dtype=torch.float32)
    image = torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    tiled, whole = (detector.predict(image, score_threshold=0.3, tile=tile) for tile in (64, None))
    assert isinstance(tiled, Result) and isinstance(whole, Result) and len(whole)
    assert torch.equal(tiled.boxes, whole.boxes) and torch.equal(tiled.scores, whole.scores)
    assert torch.equal(tiled.labels, whole.labels)


@pytest.mark.parametrize("size", [(100, 100), (101, 100), (250, 90), (1000, 333)])
def test_tiles_cover_image_with_equal_sizes(size: tuple[int, int]) -> None:
    seen = torch.zeros(size, dtype=torch.bool)
    whole, *tiles = Tiling.of((100, 30)).views(*size)
    assert whole == (0, 0, size[1], size[0])
    for x1, y1, x2, y2 in tiles:
        assert (x2 - x1, y2 - y1) == (min(100, size[1]), min(100, size[0]))
        seen[y1:y2, x1:x2] = True
    assert seen.all() if max(size) > 100 else not tiles


@pytest.mark.parametrize("tile", [0, (100, 100), (100, -1), (1, 2, 3)])
def test_invalid_tile_sizes_raise(tile: object, detector: Detector) -> None:
    with pytest.raises(ValueError, match=r"tile must be SIZE or SIZE, OVERLAP in pixels with 0 <= OVERLAP < SIZE"):
        detector.predict(torch.zeros(3, 8, 8, dtype=torch.uint8), tile=tile)  # type: ignore[arg-type]


def test_objects_that_soft_nms_leaves_in_a_tile_remain() -> None:
    """Two that overlap, seen by the whole image and two tiles, one of which misses the first; and one cut by a border."""
    one, two, cut = [20.0, 20, 60, 60], [20.0, 30, 60, 70], [90.0, 20, 100, 60]
    views = [(0, 0, 200, 100), (0, 0, 100, 100), (10, 0, 110, 100)]
    seen = [[(one, 0.9), (two, 0.5)], [(one, 0.8), (two, 0.6), (cut, 0.4)], [(two, 0.7), ([90.0, 20, 106, 60], 0.4)]]
    outputs = []
    for (x, y, *_), found in zip(views, seen, strict=True):
        boxes, scores = zip(*found, strict=True)
        boxes = torch.tensor(boxes) - torch.tensor([x, y, x, y])
        outputs.append(
            {"boxes": boxes, "labels": torch.ones(len(boxes), dtype=torch.int64), "scores": torch.tensor(scores)}
        )
    merged = merge(outputs, views, None)
    assert merged["boxes"].tolist() == [one, two, [90.0, 20, 106, 60]]
    torch.testing.assert_close(merged["scores"], torch.tensor([0.9, 0.6, 0.4]))
    assert merge(outputs, views, 0.45)["boxes"].tolist() == [one, [90.0, 20, 106, 60]]
    none = [{name: value[:0] for name, value in output.items()} for output in outputs]
    assert merge(none, views, None)["boxes"].shape == (0, 4)


@pytest.mark.parametrize("sigma", [None, 0.3])
def test_merging_follows_the_rules_of_the_model(
    sigma: float | None, detector: Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    detector.model.preset = detector.model.preset.replace(soft_nms_sigma=sigma)
    given: list[float | None] = []
    monkeypatch.setattr("ssd.inference.stream.merge", lambda *args: given.append(args[2]) or merge(*args))
    image, boxes = image_with([(70, 70, 105, 105), (150, 20, 190, 60), (60, 220, 130, 245)])
    result = detector.predict(image, tile=(SIDE, 20), score_threshold=0.0)
    assert isinstance(result, Result)
    torch.testing.assert_close(result.boxes, boxes)
    assert given == [None if sigma else detector.model.preset.nms_iou_threshold]


def test_memory_of_a_merge_grows_with_the_boxes(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes, box_iou = [], ssd_ops.box_iou
    monkeypatch.setattr(ssd_ops, "box_iou", lambda *boxes: sizes.append(box_iou(*boxes).numel()) or box_iou(*boxes))
    views, count = Tiling(40, 8).views(100, 140), 6
    low = torch.rand(len(views), count, 2, generator=torch.Generator().manual_seed(0)) * 20
    boxes = torch.cat([low, low + 20], dim=2)
    boxes[..., 0] = 0  # cut by the left border of its view
    found = [{"boxes": b, "labels": torch.ones(count, dtype=torch.int64), "scores": torch.rand(count)} for b in boxes]
    merge(found, views, 0.5)
    assert max(sizes) <= len(views) * count
