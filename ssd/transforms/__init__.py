"""Transforms `(image, target) -> (image, target)`, selected by name; the output is always uint8, resized to S x S."""

from collections.abc import Callable
from dataclasses import fields, replace
from math import inf
from numbers import Real
from typing import Any

from torch import Tensor

from ssd.common.errors import unknown
from ssd.data.dataset import Target
from ssd.data.faults import DataError
from ssd.transforms.augment import Augment, Augmentation, FromV2, Resize
from ssd.transforms.device_augment import Deferred
from ssd.transforms.geometry import CropRule
from ssd.transforms.photometric import PhotometricRule

__all__ = ["Augment", "Augmentation", "CropRule", "Deferred", "FromV2", "PhotometricRule", "Resize", "build_transforms"]

_PRESETS = {
    "ssd": Augmentation(photometric=PhotometricRule(), zoom=4.0, crop=CropRule()),
    "ssdlite": Augmentation(crop=CropRule()),
    "hflip": Augmentation(),
    "multiscale": Augmentation(shortest=tuple(range(480, 801, 32))),
    "lsj": Augmentation(jitter=(0.1, 2.0), cut="keep"),
    "none": Augmentation(hflip=0.0),
}
# Named values of the options; the mild ones suit images of one scale and constant light, as from a microscope.
_CROPS = {
    "ssd": CropRule(),
    "mild": CropRule(min_ious=(0.3, 0.5, 0.7, 0.9, 1.0), scale=(0.6, 1.0), aspect=(0.75, 1.333), relative=True),
    "none": None,
}
_PHOTOMETRIC = {
    "ssd": PhotometricRule(),
    "mild": PhotometricRule(
        brightness=(0.9, 1.1), contrast=(0.8, 1.2), saturation=(0.8, 1.2), hue=(-0.02, 0.02), permute=False
    ),
    "none": None,
}


def build_transforms(
    name: str, image_size: int, train: bool, *, deferred: bool = False, **options: Any
) -> Callable[[Tensor, Target], tuple[Any, Target]]:
    """Builds the transform of a preset.

    Args:
        name: Those of torchvision's reference training, `"ssd"` (photometric distortion, zoom-out, IoU crop, flip),
            `"ssdlite"` (crop, flip), `"hflip"`, `"multiscale"` (a shorter side of 480, 512, ... 800 pixels, flip)
            and `"lsj"` (large-scale jitter by 0.1 .. 2, flip); or `"none"`. The input of SSD is a fixed square, so
            `"multiscale"` still resizes every image to it in the end, and at 300 x 300 little more than the flip
            remains; sides below S, such as `shortest=[75, 150, 300]`, simulate images of low resolution.
        image_size: Side S of the output in pixels.
        train: If False, only the resize is done, with the preset's `antialias`.
        deferred: In training, leaves rendering to the training device (see `Deferred`).
        **options: Fields of `Augmentation` that differ from the preset. `crop` and `photometric` also accept `"ssd"`,
            `"mild"` and `"none"`.

    Returns:
        A callable `(image uint8 [3, H, W], target) -> (image uint8 [3, S, S], target)`; with `deferred` the image it
        returns is an `ssd.data.Unrendered`.

    Raises:
        DataError: Unknown name or option, or a value out of range.
    """
    if name not in _PRESETS:
        raise DataError(unknown("augmentation", name, _PRESETS))
    if image_size < 1:
        raise DataError(f"image_size must be at least 1, got {image_size}")
    known = [field.name for field in fields(Augmentation)]
    for option in options:
        if option not in known:
            raise DataError(unknown("augmentation option", option, known))
    for option, named in (("crop", _CROPS), ("photometric", _PHOTOMETRIC)):
        value = options.get(option)
        if isinstance(value, str):
            if value not in named:
                raise DataError(f"{option} must be one of {', '.join(named)} or a rule, got {value!r}")
            options[option] = named[value]
    rule = replace(_PRESETS[name], **options)
    _check(rule)
    if not train:
        return Resize(image_size, rule.antialias)
    augment = Augment(image_size, rule)
    return Deferred(augment) if deferred else augment


def _check(rule: Augmentation) -> None:
    shortest, jitter, fill = rule.shortest, rule.jitter, rule.fill
    for ok, what in (
        (_number(rule.mosaic, 0.0, 1.0), f"mosaic must be in 0 .. 1, got {rule.mosaic!r}"),
        (_number(rule.copy_paste, 0.0, 1.0), f"copy_paste must be in 0 .. 1, got {rule.copy_paste!r}"),
        (_number(rule.zoom, 1.0), f"zoom must be at least 1, got {rule.zoom!r}"),
        (_number(rule.hflip, 0.0, 1.0), f"hflip must be in 0 .. 1, got {rule.hflip!r}"),
        (rule.extra in (None, "vflip", "d4"), f"extra must be None, 'vflip' or 'd4', got {rule.extra!r}"),
        (rule.cut in ("drop", "ignore", "keep"), f"cut must be 'drop', 'ignore' or 'keep', got {rule.cut!r}"),
        (_numbers(shortest, 1), f"shortest must be a list of sides of at least 1 pixel, got {shortest!r}"),
        (_number(rule.longest, 1), f"longest must be at least 1 pixel, got {rule.longest!r}"),
        (
            jitter is None or (_numbers(jitter) and len(jitter) == 2 and 0.0 < jitter[0] <= jitter[1]),
            f"jitter must be two ascending scales above 0, such as [0.5, 1.5], got {jitter!r}",
        ),
        (_number(rule.min_size, 0.0), f"min_size must be at least 0, got {rule.min_size!r}"),
        (_numbers(fill, 0, 255) and len(fill) == 3, f"fill must be three values in 0 .. 255, got {fill!r}"),
        (isinstance(rule.antialias, bool), f"antialias must be true or false, got {rule.antialias!r}"),
        (rule.crop is None or isinstance(rule.crop, CropRule), f"crop must be a rule or its name, got {rule.crop!r}"),
        (
            rule.photometric is None or isinstance(rule.photometric, PhotometricRule),
            f"photometric must be a rule or its name, got {rule.photometric!r}",
        ),
    ):
        if not ok:
            raise DataError(what)


def _number(value: Any, low: float = -inf, high: float = inf) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and low <= float(value) <= high


def _numbers(values: Any, low: float = -inf, high: float = inf) -> bool:
    return isinstance(values, (list, tuple)) and all(_number(value, low, high) for value in values)
