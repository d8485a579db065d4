"""Validates the items of a custom data set: image, boxes, labels and ignore flags."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ssd.data.annotations import fit_box
from ssd.data.faults import Fault, FaultLog

_IGNORE = ("ignore", "iscrowd", "difficult")


class ItemError(ValueError):
    """An invalid item; the message says what was expected and given."""


def split_item(item: Any) -> tuple[Any, Mapping[str, Any]]:
    """Returns image and target of an item, which is a pair or one dict with the key `image`."""
    if isinstance(item, Mapping):
        if "image" not in item:
            raise ItemError(f"an item that is a dict must have the key image, got {', '.join(map(str, item))}")
        return item["image"], item
    if isinstance(item, (tuple, list)) and len(item) == 2 and isinstance(item[1], Mapping):
        return item[0], item[1]
    what = f"{len(item)} values" if isinstance(item, (tuple, list)) else f"a {type(item).__name__}"
    raise ItemError(f"an item must be (image, target dict) or one dict, got {what}")


def check_image(image: Any) -> Tensor:
    """Returns an image as uint8 `[3, H, W]`.

    Raises:
        ItemError: Another type, shape or range.
    """
    if isinstance(image, Image.Image):
        image = np.array(image.convert("RGB"))
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise ItemError(f"image as an array must be uint8 [H, W, 3], got {image.dtype} {list(image.shape)}")
        image = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)
    if not isinstance(image, Tensor):
        raise ItemError(f"image must be a tensor, a PIL image or an array, got a {type(image).__name__}")
    if image.ndim != 3 or image.shape[0] != 3 or 0 in image.shape:
        raise ItemError(f"image must have shape [3, H, W], got {list(image.shape)}")
    pixels: Tensor = image.as_subclass(Tensor)
    if pixels.dtype == torch.uint8:
        return pixels
    if not pixels.is_floating_point():
        raise ItemError(f"image must be uint8, or float in 0 .. 1, got {pixels.dtype}")
    low, high = float(pixels.min()), float(pixels.max())
    if not (low >= 0.0 and high <= 1.0):
        raise ItemError(f"image as float must be in 0 .. 1 (not normalized yet), got {low:g} .. {high:g}")
    return (pixels * 255).round_().to(torch.uint8)


def check_target(
    target: Mapping[str, Any], num_classes: int, size: tuple[int, int], file: str, log: FaultLog
) -> dict[str, Tensor]:
    """Returns boxes float32 `[G, 4]`, labels int64 `[G]` and ignore bool `[G]` of an item.

    Boxes without area, not finite or outside of the image are skipped and logged as faults of `file`, as are labels
    outside of 1 .. C - 1.

    Args:
        target: Target dict of the user's data set.
        num_classes: C, with the background.
        size: Height and width of the image.
        file: File name for faults.
        log: Log for the faults.

    Raises:
        ItemError: a missing key, or a wrong shape or type.
    """
    if not isinstance(target, Mapping) or "boxes" not in target or "labels" not in target:
        keys = ", ".join(map(str, target)) if isinstance(target, Mapping) else f"a {type(target).__name__}"
        raise ItemError(f"the target must have the keys boxes and labels, got {keys or 'none'}")
    boxes, labels = (torch.as_tensor(target[key]).as_subclass(Tensor) for key in ("boxes", "labels"))
    if boxes.numel() == 0:
        boxes = boxes.reshape(0, 4)
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ItemError(f"boxes must have shape [G, 4], xyxy in pixels, got {list(boxes.shape)}")
    if labels.shape != boxes.shape[:1] or (labels.numel() and (labels.is_floating_point() or labels.is_complex())):
        raise ItemError(f"labels must be integers [{len(boxes)}], got {labels.dtype} {list(labels.shape)}")
    flags = next((torch.as_tensor(target[key]) for key in _IGNORE if key in target), torch.zeros(len(boxes)))
    if flags.shape != labels.shape:
        raise ItemError(f"ignore must have shape [{len(boxes)}], got {list(flags.shape)}")
    kept, out = [], []
    for index, (box, label) in enumerate(zip(boxes.double().tolist(), labels.tolist(), strict=True)):
        if not 1 <= label < num_classes:
            log.add(Fault(file, "unknown class", f"label {label} is not in 1 .. {num_classes - 1}", index))
            continue
        fitted, kind, detail = fit_box(tuple(box), *size)
        if kind:
            log.add(Fault(file, kind, detail, index))
        if fitted is not None:
            kept.append(index)
            out.append(fitted)
    return {
        "boxes": torch.tensor(out, dtype=torch.float32).reshape(-1, 4),
        "labels": labels.long()[kept],
        "ignore": flags.bool()[kept],
    }
