"""The text of --list-options, generated from signatures and docstrings."""

from __future__ import annotations

import inspect
import json
import textwrap
from collections.abc import Callable, Iterable
from typing import Any


def listing() -> str:
    """Returns a list of all options with their defaults and descriptions for printing."""
    from ssd.data import (
        COCODataset,
        CSVDataset,
        CustomDataset,
        JSONItemsDataset,
        ShapesDataset,
        VOCDataset,
        YOLODataset,
    )
    from ssd.models import MODELS
    from ssd.presets import Preset
    from ssd.transforms.augment import Augmentation

    blocks = [
        "--model-option: rules; the defaults depend on --preset (shown here: Caffe's SSD)",
        _of(Preset, _all(Preset)),
    ]
    networks: dict[str, list[str]] = {}
    for name, entry in [*MODELS.items(), ("timm:NAME", MODELS["timm:NAME"])]:
        networks.setdefault(_of(entry.builder, _keywords(entry.builder)), []).append(name)
    for text, models in networks.items():
        blocks += [f"--model-option: network ({', '.join(models)})", text]
    readers: dict[str, Callable[..., Any]] = {
        "voc": VOCDataset,
        "coco": COCODataset,
        "yolo": YOLODataset,
        "csv": CSVDataset,
        "shapes": ShapesDataset,
    }
    readers |= {"datumaro, supervisely or labelme": JSONItemsDataset, "module:function": CustomDataset}
    for name, reader in readers.items():
        blocks += [f"--dataset-option: for --dataset {name}", _of(reader, _keywords(reader))]
    blocks += [
        "--augmentation-option: the defaults depend on --data-augmentation",
        _of(Augmentation, _all(Augmentation)),
    ]
    return "\n\n".join(blocks)


def _all(source: Callable[..., Any]) -> list[inspect.Parameter]:
    return [p for p in inspect.signature(source).parameters.values() if p.name != "name"]


def _keywords(source: Callable[..., Any]) -> list[inspect.Parameter]:
    return [p for p in _all(source) if p.kind is p.KEYWORD_ONLY]


def _of(source: Callable[..., Any], options: Iterable[inspect.Parameter]) -> str:
    """Returns the options as KEY=DEFAULT, followed by the Args section of the docstring."""
    keys = [p.name if p.default is p.empty else f"{p.name}={_value(p.default)}" for p in options]
    lines = [textwrap.fill(" ".join(keys) or "none", 118, initial_indent="  ", subsequent_indent="  ")]
    doc = inspect.getdoc(source) or ""
    if "Args:\n" in doc:
        body = doc.partition("Args:\n")[2]
        lines += [f"  {line}".rstrip() for line in body.partition("\n\n")[0].splitlines() if line.startswith(" ")]
    return "\n".join(lines)


def _value(default: Any) -> str:
    if default is None or isinstance(default, bool):
        return json.dumps(default)
    return default if isinstance(default, str) else repr(default)
