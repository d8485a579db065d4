"""Prior sizes and steps of published SSD detectors, and the formulas for them."""

from __future__ import annotations

from collections.abc import Sequence

# One entry more than there are levels: level k has min size [k] and max size [k + 1], in pixels of the published input.
SSD300_VOC = (30.0, 60.0, 111.0, 162.0, 213.0, 264.0, 315.0)
SSD300_COCO = (21.0, 45.0, 99.0, 153.0, 207.0, 261.0, 315.0)
SSD512_VOC = (35.84, 76.8, 153.6, 230.4, 307.2, 384.0, 460.8, 537.6)
SSD512_COCO = (20.48, 51.2, 133.12, 215.04, 296.96, 378.88, 460.8, 542.72)

# lufficc's last size of SSD512 is 537.65, where the formula gives 537.6.
LUFFICC512_VOC = (*SSD512_VOC[:-1], 537.65)
# Spaced by 45 on six levels: qfgaohao's MobileNets and SqueezeNet with input size 300, lufficc's MobileNets with 320.
MOBILENET_45 = (60.0, 105.0, 150.0, 195.0, 240.0, 285.0, 330.0)

SSD300_STEPS = (8.0, 16.0, 32.0, 64.0, 100.0, 300.0)
SSD512_STEPS = (8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0)
SSD300_RATIOS = ((2.0,), (2.0, 3.0), (2.0, 3.0), (2.0, 3.0), (2.0,), (2.0,))
SSD512_RATIOS = ((2.0,), (2.0, 3.0), (2.0, 3.0), (2.0, 3.0), (2.0, 3.0), (2.0,), (2.0,))

_NAMED = {
    ("voc", 6): (SSD300_VOC, 300),
    ("coco", 6): (SSD300_COCO, 300),
    ("voc", 7): (SSD512_VOC, 512),
    ("coco", 7): (SSD512_COCO, 512),
    ("lufficc_voc", 6): (SSD300_VOC, 300),
    ("lufficc_voc", 7): (LUFFICC512_VOC, 512),
    ("qfgaohao_mobilenet", 6): (MOBILENET_45, 300),
    ("lufficc_mobilenet", 6): (MOBILENET_45, 320),
    ("dusty_nv", 6): (SSD300_VOC, 300),
}
# dusty-nv trains at any size with these fractions of it, but at 300 with qfgaohao's sizes and steps.
_PUBLISHED_ONLY = {("dusty_nv", 6, 300): MOBILENET_45}
# (name, levels, image size) -> distance between centers in pixels, where it is not image size / cells.
_STEPS = {
    ("ssd", 6, 300): SSD300_STEPS,
    ("ssd", 7, 512): SSD512_STEPS,
    ("qfgaohao_mobilenet", 6, 300): (16.0, 32.0, 64.0, 100.0, 150.0, 300.0),
    ("dusty_nv", 6, 300): (16.0, 32.0, 64.0, 100.0, 150.0, 300.0),
    ("lufficc_mobilenet", 6, 320): (16.0, 32.0, 64.0, 107.0, 160.0, 320.0),
}
STEPS = tuple(dict.fromkeys(name for name, _, _ in _STEPS))


def linear_scales(levels: int, smallest: float = 0.2, largest: float = 0.95) -> tuple[float, ...]:
    """Returns evenly spaced scales, with 1.0 as the last max size, as in torchvision's SSDlite.

    Args:
        levels: Number of levels.
        smallest: Scale of the first level, as a fraction of the image side.
        largest: Scale of the last level, as a fraction of the image side.

    Returns:
        levels + 1 scales.

    Raises:
        ValueError: The scales are not fractions.
    """
    if not 0 < smallest <= largest <= 1:
        raise ValueError(
            "smallest and largest must be fractions of the image side with 0 < smallest <= largest <= 1, got "
            f"{smallest:g} and {largest:g}" + ("; if these are percentages, divide by 100" if largest > 1 else "")
        )
    if levels == 1:
        return (smallest, largest)
    return (*(smallest + (largest - smallest) * k / (levels - 1) for k in range(levels)), 1.0)


def geometric_scales(levels: int, smallest: float) -> tuple[float, ...]:
    """Returns levels + 1 geometrically spaced scales from `smallest` to 1.0, as fractions of the image side."""
    if not 0 < smallest < 1:
        raise ValueError(f"smallest must be a fraction of the image side in (0, 1), got {smallest:g}")
    return (*(smallest ** (1 - k / levels) for k in range(levels)), 1.0)


def ratios_of_levels(ratios: Sequence[Sequence[float]] | Sequence[float], levels: int) -> tuple[tuple[float, ...], ...]:
    """Returns a tuple of aspect ratios for each level, from one list for all levels or one list per level."""
    if all(isinstance(r, (int, float)) for r in ratios):
        return (tuple(float(r) for r in ratios),) * levels  # type: ignore[arg-type]
    return tuple(tuple(float(r) for r in level) for level in ratios)  # type: ignore[union-attr]


def resolve_sizes(
    sizes: str | Sequence[float], levels: int, image_size: int, smallest: float = 0.2
) -> tuple[float, ...]:
    """Returns levels + 1 sizes in pixels of the input for a name or a list.

    "voc", "coco" and names of a system are scaled from the published input size (300 for 6 levels, 512 for 7). "linear"
    is evenly spaced from `smallest` to 0.95 of the image side (see `linear_scales`), "geometric" geometrically spaced
    from `smallest` to 1. A list is used as it is.

    Raises:
        ValueError: The name is not known for this number of levels.
    """
    if not isinstance(sizes, str):
        return tuple(float(s) for s in sizes)
    if sizes in ("linear", "geometric"):
        scales = linear_scales(levels, smallest) if sizes == "linear" else geometric_scales(levels, smallest)
        return tuple(s * image_size for s in scales)
    if (sizes, levels) not in _NAMED:
        known = ["linear", "geometric", *(name for name, count in _NAMED if count == levels)]
        raise ValueError(
            f"prior_sizes must be a list of {levels + 1} sizes in pixels, or for a model of {levels} levels one of "
            f"{', '.join(known)}, got {sizes!r}"
        )
    if (only := _PUBLISHED_ONLY.get((sizes, levels, image_size))) is not None:
        return only
    values, published = _NAMED[sizes, levels]
    return values if image_size == published else tuple(v / published * image_size for v in values)


def resolve_steps(
    steps: str | Sequence[float] | None, image_size: int, grids: Sequence[tuple[int, int]]
) -> tuple[float, ...] | None:
    """Returns the steps of `PriorConfig` for a name (one of `STEPS`) or a list; None means image size / cells.

    A name applies to its published input size only; for any other the result is None, but "dusty_nv" rounds image size /
    cells up there.

    Args:
        steps: A name, distances in pixels, or None.
        image_size: Side of the input.
        grids: (rows, cols) of each level.
    """
    if steps is None:
        return None
    if not isinstance(steps, str):
        return tuple(float(s) for s in steps)
    known = _STEPS.get((steps, len(grids), image_size))
    return tuple(float(-(-image_size // rows)) for rows, _ in grids) if known is None and steps == "dusty_nv" else known
