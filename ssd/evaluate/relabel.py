"""Classes of a model and of a data set, brought together by name, so that the one can be judged on the other."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ssd.class_names import display_name
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
    """Finds the label of the data set for each label of a model.

    Names are compared without regard to case, and VOC's names with COCO's. A model without names (its classes are
    called "1", "2", ...) has the classes of a data set with as many.

    Args:
        model: Names of the model's classes, without the background.
        data: Those of the data set.

    Returns:
        int64 `[len(model) + 1]`; 0 for the background and for classes that the data set does not have.

    Raises:
        DataError: No class is known to both.
    """
    if tuple(model) == tuple(data):
        return np.arange(len(model) + 1)
    is_unnamed = tuple(model) == tuple(str(label) for label in range(1, len(model) + 1))
    if is_unnamed and len(model) == len(data):
        return np.arange(len(model) + 1)
    labels = {_key(name): label for label, name in reversed(list(enumerate(data, start=1)))}
    found = np.array([0, *(labels.get(_key(name), 0) for name in model)], dtype=np.int64)
    if not found.any():
        hint = " (torchvision's of COCO need --dataset-option labels=ids)" if is_unnamed and len(model) == 90 else ""
        raise DataError(
            f"the model and the data set have no class in common: {_some(model)} in the model, {_some(data)} in the data"
            + (f". The file of the model holds no class names{hint}" if is_unnamed else "")
        )
    return found


def relabel(records: Records, labels: np.ndarray) -> None:
    """Replaces the labels of all detections, in place; those that become 0 are left out.

    Args:
        records: Of an evaluation.
        labels: `[C]` of `map_classes`.
    """
    for index, old in enumerate(records.labels):
        new = labels[old]
        kept = new > 0
        records.boxes[index], records.scores[index] = records.boxes[index][kept], records.scores[index][kept]
        records.labels[index] = new[kept]


def describe_map(labels: np.ndarray, model: Sequence[str], data: Sequence[str]) -> list[str]:
    """Returns what a reader must know of classes that only the model or only the data set has, in lines."""
    known = set(labels.tolist())
    missing = [name for label, name in enumerate(data, start=1) if label not in known]
    unused = [name for name, label in zip(model, labels[1:].tolist(), strict=True) if not label]
    lines = []
    if missing:
        lines.append(f"the model does not know {_some(missing)}: their objects count as missed")
    if unused:
        lines.append(f"the data set does not have {_some(unused)}: their detections are left out")
    return lines


def _key(name: str) -> str:
    folded = name.strip().casefold()
    return _SYNONYMS.get(folded, folded)


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(map(display_name, names[:_LISTED])) + more
