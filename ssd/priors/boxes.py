"""Prior boxes: their configuration, the boxes themselves, and the checks that catch a wrong configuration.

A prior of level k, cell (row, col) has its center at ((col + offset) * step, (row + offset) * step) pixels. The order
of all priors is cell-major: level, row, column, box; the same order as the rows of the heads' output.
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
BoxOrder = Literal["pairs", "grouped"]
BoxFormat = Literal["xyxy", "cxcywh"]


@dataclass(frozen=True)
class PriorConfig:
    """Says where the priors of a detector lie; all sizes in pixels of the network's square input.

    The boxes of a cell are, for each min size s with its max size S: s x s, then sqrt(s * S) squared (left out where S
    is None), then the boxes of area s * s with the listed aspect ratios (width / height) and their inverses.

    Args:
        image_size: side of the network's input.
        feature_sizes: cells along one side of each level's grid; (rows, cols) where they differ.
        min_sizes: s of each level, or several for one level.
        max_sizes: S of each level (as many as the level has min sizes), or None for a level without that box.
        aspect_ratios: ratios of each level besides 1; the inverse of each is added.
        steps: distance between the centers of each level; None takes image_size / feature size.
        clip: "none" (Caffe); "wh" clamps width and height to the image and leaves the centers (torchvision); "all"
            clamps cx, cy, w, h to [0, 1] (amdegroot and those that follow it); "corners" clamps x1, y1, x2, y2 (Caffe's
            clip flag).
        order: "pairs" is ar, 1/ar for one ratio after the other (nearly all); "grouped" is all ratios, then all
            inverses.
        offset: position of the center inside its cell.
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
        put = object.__setattr__  # frozen: plain lists and single numbers are accepted and stored in one form
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
        """Builds a configuration from one rising list in pixels: level k has min sizes[k] and max sizes[k + 1]."""
        if len(sizes) != len(feature_sizes) + 1:
            raise ValueError(
                f"sizes must hold one number more than there are levels, {len(feature_sizes) + 1}, got {len(sizes)}: "
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
        """Builds a configuration from scales, fractions of the image (0.1 is a tenth of its side)."""
        if scales and max(scales) > 2:
            meant = [round(s / 100, 4) for s in scales]
            raise ValueError(
                f"scales must be fractions of the image's side, got {list(scales)}: scale {max(scales):g} is a box "
                f"{max(scales) * image_size:g} px wide in an image of {image_size} px; if these are percents, pass "
                f"{meant}; if they are pixels, use sizes"
            )
        return cls.from_sizes(image_size, feature_sizes, [s * image_size for s in scales], aspect_ratios, **rest)

    @property
    def boxes_per_cell(self) -> tuple[int, ...]:
        """Number of priors in one cell of each level."""
        return tuple(
            len(small) * (1 + (large is not None) + 2 * len(ratios))
            for small, large, ratios in zip(self.min_sizes, self.max_sizes, self.aspect_ratios, strict=True)
        )

    @property
    def num_priors(self) -> int:
        """Number of priors of all levels."""
        return sum(r * c * a for (r, c), a in zip(self.feature_sizes, self.boxes_per_cell, strict=True))

    def cell_boxes(self, level: int) -> list[tuple[float, float]]:
        """(width, height) in pixels of the priors of one cell, in their order, before clipping."""
        boxes: list[tuple[float, float]] = []
        large = self.max_sizes[level]
        for i, s in enumerate(self.min_sizes[level]):
            boxes.append((s, s))
            if large is not None:
                boxes.append((math.sqrt(s * large[i]),) * 2)
            wide = [(s * math.sqrt(ar), s / math.sqrt(ar)) for ar in self.aspect_ratios[level]]
            tall = [(h, w) for w, h in wide]
            pairs = [box for pair in zip(wide, tall, strict=True) for box in pair]
            boxes.extend(pairs if self.order == "pairs" else wide + tall)
        return boxes


def make_priors(config: PriorConfig, box_format: BoxFormat = "xyxy") -> Tensor:
    """Computes the priors of a configuration, in float64, rounded to float32 once at the end.

    Args:
        config: where the priors lie.
        box_format: "xyxy" or "cxcywh".
    Returns:
        float32 [P, 4], normalized to the image (0..1; unclipped priors may lie outside), cell-major.
    Raises:
        ValueError: all priors have one size, so no level could specialize.
    Warns:
        UserWarning: some priors coincide, so one of each group can never be learned apart from the others.
    """
    levels = [level_priors(config, level) for level in range(len(config.feature_sizes))]
    cxcywh, xyxy = (np.concatenate(parts) for parts in zip(*levels, strict=True))
    _check_priors(cxcywh, config)
    # from NumPy, as tensors have no values where a model is built on the meta device or under FakeTensorMode
    return torch.tensor((xyxy if box_format == "xyxy" else cxcywh).astype(np.float32))


def level_priors(config: PriorConfig, level: int) -> tuple[np.ndarray, np.ndarray]:
    """Computes the priors of one level, unchecked, as cxcywh and as xyxy: float64 [rows * cols * boxes, 4]."""
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
    rounded = cxcywh.astype(np.float32) + 0.0  # not -0.0, whose bits are others
    if (rounded[:, 2:] == rounded[0, 2:]).all():
        w, h = (rounded[0, 2:].astype(np.float64) * config.image_size).tolist()
        raise ValueError(
            f"all {len(cxcywh)} priors have one size, {w:g} x {h:g} px in an image of {config.image_size} px, so no "
            f"level can specialize in objects of its size: min_sizes {_plain(config.min_sizes)}, max_sizes "
            f"{_plain(config.max_sizes)}, clip {config.clip!r}; give every level its own size in pixels (fractions go "
            "through from_scales)"
        )
    bits = rounded.view(np.int64)  # [P, 2]: sorting two integers is the fast way to find equal rows
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
    """Raises ValueError for a configuration that cannot be meant, naming the field, the level and the number."""
    levels = len(config.feature_sizes)
    if not levels:
        raise ValueError("feature_sizes must name at least one level, got none")
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
            f"min_sizes must be pixels of the input, got {flat}: every prior is larger than the image, "
            f"{config.image_size} px"
        )
    for level in range(levels):
        _check_level(config, level)


def _check_level(config: PriorConfig, level: int) -> None:
    small, large = config.min_sizes[level], config.max_sizes[level]
    if not small or not all(math.isfinite(s) and s > 0 for s in small):
        raise ValueError(f"min_sizes[{level}] must hold positive finite sizes in pixels, got {small}")
    if min(config.feature_sizes[level]) < 1:
        raise ValueError(f"feature_sizes[{level}] must be at least 1, got {config.feature_sizes[level]}")
    if not all(math.isfinite(ar) and ar > 0 for ar in config.aspect_ratios[level]):
        raise ValueError(f"aspect_ratios[{level}] must be positive and finite, got {config.aspect_ratios[level]}")
    if large is not None and (len(large) != len(small) or not all(b > a for a, b in zip(small, large, strict=True))):
        raise ValueError(f"max_sizes[{level}] must hold one size above each of min_sizes {small}, got {large}")
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
    """Levels for a message: single numbers without their tuple."""
    return [v[0] if isinstance(v, tuple) and len(v) == 1 else v for v in levels]
