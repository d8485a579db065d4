"""Detection in a stream of images: batches of images or of their tiles, results in the order of the images."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice

import torch
from torch import Tensor

from ssd.common.errors import DataError
from ssd.data.loading.whole_images import WholeImages
from ssd.inference.engine import InferenceEngine
from ssd.inference.result import Result
from ssd.inference.sources import Item, Loaded, load_item
from ssd.inference.tiles import Tiling, View, merge
from ssd.models.torchvision_io import split_detections
from ssd.presets import Preset


@dataclass
class _Waiting:
    """An image whose result follows; an unreadable one has no views."""

    loaded: Loaded
    views: list[View]
    outputs: list[dict[str, Tensor]] = field(default_factory=list)


def detect_all(
    engine: InferenceEngine,
    items: Iterator[Item],
    thresholds: Tensor,
    batch_size: int,
    tiling: Tiling | None,
    *,
    max_detections: int | None,
    preset: Preset,
    classes: tuple[str, ...],
    apply_exif: bool,
) -> Iterator[Result]:
    """Yields the result of each item; the next batch is read while the device processes the current one.

    Args:
        engine: Engine that runs the network.
        items: Images of `images_of`.
        thresholds: Minimum score of each label `[C]`, the background's included.
        batch_size: Number of views per batch.
        tiling: Tiles of each image; None for the whole image only.
        max_detections: Maximum number of detections of an image; None sets no limit beyond that of the model.
        preset: Rules by which the detections in tiles are merged.
        classes: Class names without the background.
        apply_exif: Whether to apply the EXIF orientation of images.
    """
    waiting: deque[_Waiting] = deque()
    launched: deque[list[tuple[_Waiting, View]]] = deque()

    def views() -> Iterator[tuple[_Waiting, View]]:
        for index, item in enumerate(items):
            try:
                loaded = load_item(item, apply_exif)
            except DataError as error:
                raise DataError(f"image {index} of source: {error}") from None
            image = _Waiting(loaded, _views(loaded.image, tiling))
            waiting.append(image)
            yield from ((image, view) for view in image.views)

    def batches() -> Iterator[WholeImages]:
        all_views = views()
        while chunk := list(islice(all_views, batch_size)):
            launched.append(chunk)
            yield engine.pack([_crop(image, view) for image, view in chunk])

    for detections in engine.detect_all(batches()):
        chunk = launched.popleft()
        sizes = [(y2 - y1, x2 - x1) for _, (x1, y1, x2, y2) in chunk]
        for (image, _), output in zip(chunk, split_detections(detections, sizes), strict=True):
            keep = output["scores"] >= thresholds[output["labels"]]
            image.outputs.append({name: value[keep] for name, value in output.items()})
        while waiting and len(waiting[0].outputs) == len(waiting[0].views):
            yield _result(waiting.popleft(), preset, classes, max_detections)
    while waiting:  # unreadable images after the last batch
        yield _result(waiting.popleft(), preset, classes, max_detections)


def _views(image: Tensor | None, tiling: Tiling | None) -> list[View]:
    if image is None:
        return []
    height, width = image.shape[1:]
    return [(0, 0, width, height)] if tiling is None else tiling.views(height, width)


def _crop(image: _Waiting, view: View) -> Tensor:
    assert image.loaded.image is not None  # an unreadable image has no views
    x1, y1, x2, y2 = view
    return image.loaded.image[:, y1:y2, x1:x2]


def _result(image: _Waiting, preset: Preset, classes: tuple[str, ...], limit: int | None) -> Result:
    loaded = image.loaded
    if image.views:
        threshold = preset.nms_iou_threshold if preset.soft_nms_sigma is None else None
        output = merge(image.outputs, image.views, threshold, preset.suppress_equal)
    else:
        empty = torch.zeros(0)
        output = {"boxes": empty.view(0, 4), "labels": empty.long(), "scores": empty}
    boxes, labels, scores = (output[name][:limit] for name in ("boxes", "labels", "scores"))
    return Result(boxes, labels, scores, classes, loaded.image, loaded.file, loaded.error, loaded.frame, loaded.time)
