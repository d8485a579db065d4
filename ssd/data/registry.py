"""Opens a data set by the name of its format."""

import inspect
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from ssd.common.errors import DataError, unknown
from ssd.config.option_types import check_option_types
from ssd.data.dataset import DetectionDataset
from ssd.data.formats.coco import COCODataset
from ssd.data.formats.csv_boxes import CSVDataset
from ssd.data.formats.custom import CustomDataset
from ssd.data.formats.json_items import JSONItemsDataset
from ssd.data.formats.shapes import ShapesDataset
from ssd.data.formats.shards import ShardsDataset
from ssd.data.formats.voc import VOCDataset
from ssd.data.formats.yolo import YOLODataset

_READERS: dict[str, Callable[..., DetectionDataset]] = {
    "voc": VOCDataset,
    "coco": COCODataset,
    "yolo": YOLODataset,
    "csv": CSVDataset,
    "shards": ShardsDataset,
    **{kind: partial(JSONItemsDataset, kind) for kind in ("datumaro", "supervisely", "labelme")},
}


def open_dataset(name: str, path: str | Path | None = None, split: str = "train", **options: Any) -> DetectionDataset:
    """Opens a split of a data set.

    Args:
        name: `"voc"`, `"coco"`, `"yolo"`, `"csv"`, `"datumaro"`, `"supervisely"`, `"labelme"`, `"shards"` or
            `"shapes"`; or the import path of a custom data set, `"my_package.my_module:MyDataset"` (see
            `ssd.data.formats.custom`).
        path: Folder of the data set; `"shapes"` has none, and custom data sets may have none.
        split: A split, such as `"train"` or `"val"`.
        **options: Options of `VOCDataset`, `COCODataset`, `YOLODataset`, `CSVDataset`, `JSONItemsDataset`,
            `ShardsDataset`, `ShapesDataset` or `CustomDataset`.

    Returns:
        The data set; `print(dataset.summary())` shows its counts and faults.

    Raises:
        DataError: Unknown name or option, no such folder or split, no usable image, or a fault with
            `on_error="raise"`. The message lists what was expected and what was found.
    """
    if name == "shapes":
        _check_options(name, ShapesDataset, options)
        return ShapesDataset(split, **options)
    if ":" in name:
        return CustomDataset(name, path, split, **options)
    if name not in _READERS:
        raise DataError(unknown("data set", name, [*_READERS, "shapes"]))
    if path is None:
        raise DataError(f"the data set {name!r} needs path=, the folder that it is in")
    _check_options(name, _READERS[name], options)
    return _READERS[name](path, split, **options)


def _check_options(name: str, reader: Callable[..., DetectionDataset], options: dict[str, Any]) -> None:
    known = [p.name for p in inspect.signature(reader).parameters.values() if p.kind is inspect.Parameter.KEYWORD_ONLY]
    for option in options:
        if option not in known:
            raise DataError(unknown(f"option of the data set {name!r}", option, known))
    try:
        check_option_types(reader, options)
    except ValueError as error:
        raise DataError(f"data set {name!r}: {error}") from None
