"""Maps the classes of a model to those of a data set by name, so that any model can be evaluated on any data set."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ssd.common.class_names import display_name, list_first
from ssd.data.faults import DataError
from ssd.evaluate.records import Records

# What COCO calls the classes of VOC.
_SYNONYMS = {
    "aeroplane": "airplane",
    "motorbike": "motorcycle",
    "sofa": "couch",
    "diningtable": "dining table",
    "pottedplant": "potted plant",
    "tvmonitor": "tv",
}
_LISTED = 10


def map_classes(model: Sequence[str], data: Sequence[str]) -> np.ndarray:
    """Maps each label of a model to a label of a data set.

    Where no class has exactly the name, its case is ignored, and VOC's names equal COCO's. A model without class names
    (they are "1", "2", ...) has the classes of the data set if their number is the same.

    Args:
        model: Names of the model's classes, without the background.
        data: Names of the data set's classes, without the background.

    Returns:
        int64 `[len(model) + 1]`; 0 for the background and for classes that the data set does not have.

    Raises:
        DataError: The model and the data set have no class in common.
    """
    if tuple(model) == tuple(data):
        return np.arange(len(model) + 1)
    is_unnamed = tuple(model) == tuple(str(label) for label in range(1, len(model) + 1))
    if is_unnamed and len(model) == len(data):
        return np.arange(len(model) + 1)
    exact = {name: label for label, name in enumerate(data, start=1)}
    alike = {_key(name): label for name, label in exact.items() if name not in model}
    mapped = np.array([0, *(exact.get(name) or alike.get(_key(name), 0) for name in model)], dtype=np.int64)
    if not mapped.any():
        hint = " (torchvision's of COCO need --dataset-option labels=ids)" if is_unnamed and len(model) == 90 else ""
        raise DataError(
            f"the model and the data set have no class in common: {_some(model)} in the model, {_some(data)} in the data"
            + (f". The file of the model holds no class names{hint}" if is_unnamed else "")
        )
    return mapped


def relabel(records: Records, labels: np.ndarray) -> None:
    """Replaces the labels of all detections in place, and drops detections with the new label 0.

    Args:
        records: Detections of an evaluation.
        labels: `[C]`, the new labels that `map_classes` returns.
    """
    for index, old in enumerate(records.labels):
        new = labels[old]
        kept = new > 0
        records.boxes[index], records.scores[index] = records.boxes[index][kept], records.scores[index][kept]
        records.labels[index] = new[kept]


def describe_map(
    labels: np.ndarray, model: Sequence[str], data: Sequence[str], *, missing: str = "objects count as missed"
) -> list[str]:
    """Returns one line on the classes that only the data set has, and one on those that only the model has.

    Args:
        labels: Result of `map_classes`.
        model: Class names of the model.
        data: Class names of the data set.
        missing: What happens to the objects of classes that only the data set has.
    """
    known = set(labels.tolist())
    only_data = [name for label, name in enumerate(data, start=1) if label not in known]
    pairs = zip(model, labels[1:].tolist(), strict=True)
    unused = [name for name, label in pairs if not label and name != "N/A"]  # torchvision's gaps in COCO's ids
    lines = []
    if only_data:
        lines.append(f"the model does not know {_some(only_data)}: their {missing}")
    if unused:
        lines.append(f"the data set does not have {_some(unused)}: their detections are dropped")
    return lines


def _key(name: str) -> str:
    folded = name.strip().casefold()
    return _SYNONYMS.get(folded, folded)


def _some(names: Sequence[str]) -> str:
    return list_first([*map(display_name, names)], _LISTED)
