"""Drawn shapes: a data set that needs no files, for the demo and the tests.

Discs, squares, triangles and stars of many sizes, angles and colors over textured, noisy backgrounds, with lines and
specks in between that are not objects. Every image follows from (seed, split, index) alone.
"""

import math

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from ssd.data.annotations import AnnotationsBuilder, Box
from ssd.data.dataset import DetectionDataset
from ssd.data.faults import DataError, FaultLog

CLASSES = ("disc", "square", "triangle", "star")
_SPLITS = {"train": 0, "val": 1, "test": 2}
_SIZES = {"train": 1000, "val": 200, "test": 200}
_SCALE = 4  # shapes are drawn this much larger and averaged down, for smooth edges
_CONTRAST = 60  # min distance of a shape's color to what it covers, sum over the channels of absolute differences


class ShapesDataset(DetectionDataset):
    """Images of drawn shapes.

    The splits draw from separate random streams, so no image of one is in another. An image is drawn when it is first
    requested, in about a millisecond, and kept while `cache` is set.

    Args:
        split: `"train"`, `"val"` or `"test"`.
        size: Number of images; 1000 for train and 200 for the others where None.
        image_size: Height and width in pixels, at least 32.
        max_objects: Maximum number of shapes in an image; one in twenty images has none.
        seed: Seed of the whole data set.
        cache: Keep the images drawn, 77 kB each at 160 x 160.

    Raises:
        DataError: Unknown split, or a number out of range.
    """

    def __init__(
        self,
        split: str = "train",
        *,
        size: int | None = None,
        image_size: int = 160,
        max_objects: int = 6,
        seed: int = 0,
        cache: bool = True,
    ) -> None:
        if split not in _SPLITS:
            raise DataError(f"shapes has the splits {', '.join(_SPLITS)}, got {split!r}")
        size = _SIZES[split] if size is None else size
        if size < 1 or image_size < 32 or max_objects < 1 or seed < 0:
            raise DataError(
                "shapes needs size >= 1, image_size >= 32, max_objects >= 1 and seed >= 0, got "
                f"size {size}, image_size {image_size}, max_objects {max_objects}, seed {seed}"
            )
        self.image_size = image_size
        self._key = (seed, _SPLITS[split])
        self._layouts = [_layout(self._random(index, 0), image_size, max_objects) for index in range(size)]
        self._cache: dict[int, Tensor] | None = {} if cache else None
        builder = AnnotationsBuilder()
        for index, shapes in enumerate(self._layouts):
            labels = [label for label, _ in shapes]
            boxes = [_bounds(outline) for _, outline in shapes]
            builder.add(
                f"shapes/{split}/{index}", index, (image_size, image_size), boxes, labels, [False] * len(shapes)
            )
        super().__init__(f"shapes {split}", CLASSES, builder, FaultLog())

    def _random(self, index: int, part: int) -> np.random.Generator:
        return np.random.Generator(np.random.PCG64(np.random.SeedSequence((*self._key, index, part))))

    def load_image(self, index: int) -> Tensor:
        """Draws image `index`: uint8 `[3, S, S]`."""
        if index < 0:
            index += len(self)
        if self._cache is not None and index in self._cache:
            return self._cache[index]
        array = _draw(self._random(index, 1), self._layouts[index], self.image_size)
        image = torch.from_numpy(array).permute(2, 0, 1)
        if self._cache is not None:
            self._cache[index] = image
        return image


def _layout(random: np.random.Generator, side: int, max_objects: int) -> list[tuple[int, np.ndarray]]:
    # Chooses (label, outline [K, 2] in pixels) of each shape. A shape that would overlap another is moved.
    shapes: list[tuple[int, np.ndarray]] = []
    boxes: list[Box] = []
    wanted = 0 if random.random() < 0.05 else int(random.integers(1, max_objects + 1))
    for _ in range(wanted * 8):
        if len(shapes) == wanted:
            break
        label = int(random.integers(1, len(CLASSES) + 1))
        # Log-uniform: as many shapes between 10 and 20 pixels (of 160) as between 20 and 40.
        radius = side * math.exp(random.uniform(math.log(0.045), math.log(0.24)))
        outline = _outline(random, label) * radius
        low, high = outline.min(axis=0), outline.max(axis=0)
        free = side - (high - low)
        outline = outline - low + random.random(2) * free
        box = _bounds(outline)
        if all(_overlap(box, other) < 0.15 for other in boxes):
            shapes.append((label, outline))
            boxes.append(box)
    return shapes


def _outline(random: np.random.Generator, label: int) -> np.ndarray:
    # [K, 2] outline of unit radius about the origin, rotated and stretched a little.
    turn = random.uniform(0, 2 * math.pi)
    if label == 1:
        angles, radii = np.arange(48) * (2 * math.pi / 48), np.ones(48)
    elif label == 2:
        turn = math.pi / 4 + random.uniform(-0.35, 0.35)
        angles, radii = np.arange(4) * (math.pi / 2), np.ones(4)
    elif label == 3:
        angles, radii = np.arange(3) * (2 * math.pi / 3), np.ones(3)
    else:
        angles, radii = np.arange(10) * (math.pi / 5), np.where(np.arange(10) % 2 == 0, 1.0, 0.45)
    points = np.stack([np.cos(angles + turn), np.sin(angles + turn)], axis=1) * radii[:, None]
    return points * random.uniform(0.8, 1.0, 2)


def _bounds(outline: np.ndarray) -> Box:
    low, high = outline.min(axis=0), outline.max(axis=0)
    return float(low[0]), float(low[1]), float(high[0]), float(high[1])


def _overlap(a: Box, b: Box) -> float:
    # Fraction of the smaller box that is inside the other.
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    return width * height / min((a[2] - a[0]) * (a[3] - a[1]), (b[2] - b[0]) * (b[3] - b[1]))


def _draw(random: np.random.Generator, shapes: list[tuple[int, np.ndarray]], side: int) -> np.ndarray:
    """Returns the image, uint8 `[side, side, 3]`."""
    cells = int(random.integers(2, 9))
    base = random.integers(40, 216, 3)
    spread = int(random.integers(10, 70))
    coarse = (base + random.integers(-spread, spread + 1, (cells, cells, 3))).clip(0, 255).astype(np.uint8)
    canvas = Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC)
    _clutter(random, canvas, side)
    for _, outline in shapes:
        low = np.floor(outline.min(axis=0)).astype(int)
        high = np.ceil(outline.max(axis=0)).astype(int)
        width, height = (int(v) for v in high - low)
        mask = Image.new("L", (width * _SCALE, height * _SCALE))
        ImageDraw.Draw(mask).polygon([tuple(point) for point in (outline - low) * _SCALE - 0.5], fill=255)
        patch = canvas.crop((int(low[0]), int(low[1]), int(high[0]), int(high[1])))
        under = np.asarray(patch.resize((1, 1), Image.Resampling.BOX))[0, 0]
        canvas.paste(_color(random, under), (int(low[0]), int(low[1])), mask.reduce(_SCALE))
    # Grain of a strength of its own for each image, from one table of bytes: normal noise would take longer than the
    # rest.
    strength = int(random.integers(2, 16))
    grain = np.frombuffer(random.bytes(side * side * 3), dtype=np.uint8).reshape(side, side, 3)
    table = (np.arange(256) % (2 * strength + 1) - strength).astype(np.int16)
    noisy = np.take(table, grain)
    noisy += np.asarray(canvas)
    return np.clip(noisy, 0, 255, out=noisy).astype(np.uint8)


def _clutter(random: np.random.Generator, canvas: Image.Image, side: int) -> None:
    draw = ImageDraw.Draw(canvas)
    for _ in range(int(random.integers(0, 5))):
        ends = [float(v) for v in random.uniform(0, side, 4)]
        draw.line(ends, fill=tuple(random.bytes(3)), width=int(random.integers(1, 3)))
    for _ in range(int(random.integers(0, 12))):
        x, y, size = random.random(3).tolist()
        x, y, radius = x * side, y * side, 0.5 + 1.3 * size
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=tuple(random.bytes(3)))


def _color(random: np.random.Generator, under: np.ndarray) -> tuple[int, int, int]:
    for _ in range(20):
        color = random.bytes(3)
        if sum(abs(a - int(b)) for a, b in zip(color, under, strict=True)) >= _CONTRAST:
            break
    return color[0], color[1], color[2]
