"""Configuration and generation of prior boxes, with checks of the configuration.

A prior of level k and cell (row, col) is centered at ((col + offset) * step, (row + offset) * step) pixels. Priors are
ordered by level, row, column and box (cell-major), like the rows of the heads' output.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

Clip = Literal["none", "wh", "all", "corners"]
BoxOrder = Literal["pairs", "grouped", "tensorflow"]
BoxFormat = Literal["xyxy", "cxcywh"]


@dataclass(frozen=True)
class PriorConfig:
    """Configuration of the priors of a detector; all sizes are in pixels of the square network input.

    The boxes of a cell are, for each min size s with its max size S: a square of side s, a square of side sqrt(s * S)
    (omitted if S is None), then boxes of area s * s with the listed aspect ratios (width / height) and their inverses.

    Args:
        image_size: Side of the network input.
        feature_sizes: Number of cells along each side of the grid of each level; (rows, cols) if they differ.
        min_sizes: Min size of each level, or several for one level.
        max_sizes: Max size of each level (one for each of its min sizes), or None for a level without that box.
        aspect_ratios: Aspect ratios of each level besides 1; their inverses are added.
        steps: Distance between the centers of each level; None uses image_size / feature size.
        clip: "none" (Caffe); "wh" clamps width and height to the image but not the centers (torchvision); "all" clamps
            cx, cy, w, h to [0, 1] (amdegroot and its derivatives); "corners" clamps x1, y1, x2, y2 (Caffe's clip flag).
        order: "pairs" is ar, 1/ar for each ratio in turn (most systems); "grouped" is all ratios, then all inverses;
            "tensorflow" is pairs with the square of side sqrt(s * S) last, and on the first level a single square, of a
            tenth of the image (TensorFlow Object Detection's reduce_boxes_in_lowest_layer).
        offset: Position of the center within its cell.

    Raises:
        ValueError: A field is invalid; the message names the field, the level and the value.
    """

    image_size: int
    feature_sizes: tuple[tuple[int, int], ...]
    min_sizes: tuple[tuple[float, ...], ...]
    max_sizes: tuple[tuple[float, ...] | None, ...]
    aspect_ratios: tuple[tuple[float, ...], ...]
    steps: tuple[float, ...] | None = None
    clip: Clip = "none"
    order: BoxOrder = "pairs"
    offset: float = 0.5

    def __post_init__(self) -> None:
        put = object.__setattr__  # frozen; lists and single numbers are normalized to tuples
        put(self, "feature_sizes", tuple(_pair(f) for f in self.feature_sizes))
        put(self, "min_sizes", tuple(_floats(s) for s in self.min_sizes))
        put(self, "max_sizes", tuple(None if s is None else _floats(s) for s in self.max_sizes))
        put(self, "aspect_ratios", tuple(_floats(r) for r in self.aspect_ratios))
        put(self, "steps", None if self.steps is None else _floats(self.steps))
        _check_config(self)

    @classmethod
    def from_sizes(
        cls,
        image_size: int,
        feature_sizes: Sequence[int | tuple[int, int]],
        sizes: Sequence[float],
        aspect_ratios: Sequence[Sequence[float]],
        **rest: object,
    ) -> PriorConfig:
        """Builds a configuration from an ascending list in pixels: level k has min sizes[k] and max sizes[k + 1]."""
        if len(sizes) != len(feature_sizes) + 1:
            raise ValueError(
                f"sizes must have one entry more than there are levels, {len(feature_sizes) + 1}, got {len(sizes)}: "
                f"{list(sizes)}; the last one is the max size of the last level"
            )
        return cls(image_size, feature_sizes, sizes[:-1], sizes[1:], aspect_ratios, **rest)  # type: ignore[arg-type]

    @classmethod
    def from_scales(
        cls,
        image_size: int,
        feature_sizes: Sequence[int | tuple[int, int]],
        scales: Sequence[float],
        aspect_ratios: Sequence[Sequence[float]],
        **rest: object,
    ) -> PriorConfig:
        """Builds a configuration from scales, as fractions of the image side."""
        if scales and max(scales) > 2:
            fractions = [round(s / 100, 4) for s in scales]
            raise ValueError(
                f"scales must be fractions of the image side, got {list(scales)}: scale {max(scales):g} is a box "
                f"{max(scales) * image_size:g} px wide in an image of {image_size} px; if these are percentages, pass "
                f"{fractions}; if they are pixels, use from_sizes"
            )
        return cls.from_sizes(image_size, feature_sizes, [s * image_size for s in scales], aspect_ratios, **rest)

    @property
    def boxes_per_cell(self) -> tuple[int, ...]:
        """Number of priors per cell of each level."""
        return tuple(len(self.cell_boxes(level)) for level in range(len(self.feature_sizes)))

    @property
    def num_priors(self) -> int:
        """Total number of priors."""
        return sum(r * c * a for (r, c), a in zip(self.feature_sizes, self.boxes_per_cell, strict=True))

    def cell_boxes(self, level: int) -> list[tuple[float, float]]:
        """Returns the (width, height) in pixels of the priors of one cell, in order, before clipping."""
        boxes: list[tuple[float, float]] = []
        large, tensorflow = self.max_sizes[level], self.order == "tensorflow"
        for i, s in enumerate(self.min_sizes[level]):
            square = self.image_size / 10 if tensorflow and level == 0 else s
            between = [] if large is None or square != s else [(math.sqrt(s * large[i]),) * 2]
            boxes += [(square, square), *([] if tensorflow else between)]
            wide = [(s * math.sqrt(ar), s / math.sqrt(ar)) for ar in self.aspect_ratios[level]]
            tall = [(h, w) for w, h in wide]
            pairs = [box for pair in zip(wide, tall, strict=True) for box in pair]
            boxes += (wide + tall if self.order == "grouped" else pairs) + (between if tensorflow else [])
        return boxes


def make_priors(config: PriorConfig, box_format: BoxFormat = "xyxy") -> Tensor:
    """Computes the priors of a configuration in float64 and rounds them to float32 once.

    Warns if some priors coincide, since the network cannot learn them separately.

    Args:
        config: Configuration of the priors.
        box_format: "xyxy" or "cxcywh".

    Returns:
        float32 `[P, 4]`, normalized (unclipped priors may exceed 0..1), cell-major.

    Raises:
        ValueError: All priors have the same size, so no level could specialize.
    """
    levels = [level_priors(config, level) for level in range(len(config.feature_sizes))]
    cxcywh, xyxy = (np.concatenate(parts) for parts in zip(*levels, strict=True))
    _check_priors(cxcywh, config)
    # NumPy, because tensors have no values on the meta device or under FakeTensorMode
    return torch.tensor((xyxy if box_format == "xyxy" else cxcywh).astype(np.float32))


def level_priors(config: PriorConfig, level: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the priors of one level, unchecked, as cxcywh and as xyxy: float64 `[rows * cols * boxes, 4]`."""
    (rows, cols), size = config.feature_sizes[level], config.image_size
    step_y, step_x = (size / rows, size / cols) if config.steps is None else (config.steps[level],) * 2
    cy = (np.arange(rows, dtype=np.float64) + config.offset) * step_y / size
    cx = (np.arange(cols, dtype=np.float64) + config.offset) * step_x / size
    wh = np.array(config.cell_boxes(level), dtype=np.float64) / size  # [A, 2]
    centers = np.stack(np.meshgrid(cx, cy), axis=-1)[:, :, None]
    shape = (rows, cols, len(wh), 2)
    cxcywh = np.concatenate((np.broadcast_to(centers, shape), np.broadcast_to(wh, shape)), axis=-1).reshape(-1, 4)
    if config.clip == "wh":
        cxcywh[:, 2:] = cxcywh[:, 2:].clip(0, 1)
    elif config.clip == "all":
        cxcywh = cxcywh.clip(0, 1)
    xyxy = np.concatenate((cxcywh[:, :2] - cxcywh[:, 2:] / 2, cxcywh[:, :2] + cxcywh[:, 2:] / 2), axis=1)
    if config.clip == "corners":
        xyxy = xyxy.clip(0, 1)
        cxcywh = np.concatenate(((xyxy[:, :2] + xyxy[:, 2:]) / 2, xyxy[:, 2:] - xyxy[:, :2]), axis=1)
    return cxcywh, xyxy


def _check_priors(cxcywh: np.ndarray, config: PriorConfig) -> None:
    rounded = cxcywh.astype(np.float32) + 0.0  # turns -0.0 into 0.0, which has other bits
    if (rounded[:, 2:] == rounded[0, 2:]).all():
        w, h = (rounded[0, 2:].astype(np.float64) * config.image_size).tolist()
        raise ValueError(
            f"all {len(cxcywh)} priors have the same size, {w:g} x {h:g} px in an image of {config.image_size} px, so no "
            f"level can specialize: min_sizes {_plain(config.min_sizes)}, max_sizes {_plain(config.max_sizes)}, clip "
            f"{config.clip!r}; give every level its own size in pixels (for fractions use from_scales)"
        )
    bits = rounded.view(np.int64)  # [P, 2]: sorting two integers is the fastest way to find equal rows
    ordered = bits[np.lexsort(bits.T)]
    distinct = 1 + int((ordered[1:] != ordered[:-1]).any(axis=1).sum())
    if distinct < len(cxcywh):
        warnings.warn(
            f"{len(cxcywh) - distinct} of {len(cxcywh)} priors coincide with another prior ({distinct} are distinct); "
            f"check min_sizes {_plain(config.min_sizes)}, aspect_ratios {_plain(config.aspect_ratios)} and clip "
            f"{config.clip!r}",
            stacklevel=3,
        )


def _check_config(config: PriorConfig) -> None:
    """Raises ValueError for an invalid configuration value, naming the field and the level."""
    levels = len(config.feature_sizes)
    if not levels:
        raise ValueError("feature_sizes must have at least one level, got none")
    for name in ("min_sizes", "max_sizes", "aspect_ratios", "steps"):
        value = getattr(config, name)
        if value is not None and len(value) != levels:
            raise ValueError(f"{name} must have one entry per level, {levels}, got {len(value)}: {_plain(value)}")
    for name, kinds in (("clip", get_args(Clip)), ("order", get_args(BoxOrder))):
        if getattr(config, name) not in kinds:
            raise ValueError(f"{name} must be one of {', '.join(kinds)}, got {getattr(config, name)!r}")
    flat = [s for level in config.min_sizes for s in level]
    if max(flat) <= 1 < config.image_size:
        raise ValueError(
            f"min_sizes must be pixels, got {flat}; these look like fractions of the image: use from_scales"
        )
    if min(flat) > config.image_size:
        raise ValueError(
            f"min_sizes must be pixels, got {flat}: every prior is larger than the image, {config.image_size} px"
        )
    for level in range(levels):
        _check_level(config, level)


def _check_level(config: PriorConfig, level: int) -> None:
    small, large = config.min_sizes[level], config.max_sizes[level]
    if not small or not all(math.isfinite(s) and s > 0 for s in small):
        raise ValueError(f"min_sizes[{level}] must be positive finite sizes in pixels, got {small}")
    if min(config.feature_sizes[level]) < 1:
        raise ValueError(f"feature_sizes[{level}] must be at least 1, got {config.feature_sizes[level]}")
    if not all(math.isfinite(ar) and ar > 0 for ar in config.aspect_ratios[level]):
        raise ValueError(f"aspect_ratios[{level}] must be positive and finite, got {config.aspect_ratios[level]}")
    if large is not None and (len(large) != len(small) or not all(b > a for a, b in zip(small, large, strict=True))):
        raise ValueError(f"max_sizes[{level}] must have one larger size for each of min_sizes {small}, got {large}")
    if config.steps is None:
        return
    for cells in config.feature_sizes[level]:
        covered = cells * config.steps[level] / config.image_size
        if not 0.5 <= covered <= 2:
            raise ValueError(
                f"steps[{level}] = {config.steps[level]:g} px times {cells} cells covers {covered:.3g} of the image of "
                f"{config.image_size} px; it must be about {config.image_size / cells:.4g} px"
            )


def _floats(value: float | Sequence[float]) -> tuple[float, ...]:
    return (float(value),) if isinstance(value, (int, float)) else tuple(float(v) for v in value)


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return (int(value), int(value)) if isinstance(value, (int, Integral)) else (int(value[0]), int(value[1]))


def _plain(levels: Sequence[object]) -> list[object]:
    return [v[0] if isinstance(v, tuple) and len(v) == 1 else v for v in levels]
