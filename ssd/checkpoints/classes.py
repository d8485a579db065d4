"""Maps the classes of a checkpoint to those of a data set by name."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ssd.checkpoints.head_rows import head_rows
from ssd.checkpoints.report import WeightsError
from ssd.models import SSD
from ssd.weight_files.load import few


def class_rows(saved: Sequence[str], wanted: Sequence[str]) -> list[int | None]:
    """Returns the saved index of the background and of each wanted class, None for a class that was not saved."""
    index = {name: i for i, name in enumerate(saved, start=1)}
    return [0, *(index.get(name) for name in wanted)]


def reorder_classes(
    model: SSD,
    saved: Sequence[str],
    wanted: Sequence[str],
    *,
    optimizer: torch.optim.Optimizer | None = None,
    source: str = "the checkpoint",
) -> bool:
    """Permutes the class heads of a model from the saved order of its classes to the wanted one, in place.

    Args:
        model: A model with the weights of the checkpoint loaded.
        saved: Class names of the checkpoint, without the background.
        wanted: Class names of the data.
        optimizer: Optimizer of the model; its state of the class heads is permuted in the same way.
        source: Name of the checkpoint for the error message.

    Returns:
        Whether the order differed.

    Raises:
        WeightsError: The names differ; it lists those that only one of the two has.
    """
    if tuple(saved) == tuple(wanted):
        return False
    if sorted(saved) != sorted(wanted):
        raise WeightsError(f"{source} has other classes than the data: {_difference(saved, wanted)}")
    rows = class_rows(saved, wanted)
    for key, head in head_rows(model).items():
        if not head.is_class:
            continue
        parameter = model.get_parameter(key)
        state = () if optimizer is None else optimizer.state.get(parameter, {}).values()
        for tensor in (parameter.data, *state):
            if isinstance(tensor, Tensor) and tensor.shape == parameter.shape:
                tensor.copy_(take_rows(tensor, tensor, head.boxes, rows))
    return True


def take_rows(value: Tensor, own: Tensor, boxes: int, rows: Sequence[int | None]) -> Tensor:
    """Selects rows [boxes * len(rows), ...] of a class head: row rows[c] of each box of `value`, or of `own` if None."""
    rest = own.shape[1:]
    value = value.reshape(boxes, -1, *rest)
    mixed = own.clone().reshape(boxes, len(rows), *rest)
    known = [(c, row) for c, row in enumerate(rows) if row is not None]
    mixed[:, [c for c, _ in known]] = value[:, [row for _, row in known]].to(mixed)
    return mixed.reshape(own.shape)


def _difference(saved: Sequence[str], wanted: Sequence[str]) -> str:
    parts = (("only the checkpoint has", saved, wanted), ("only the data has", wanted, saved))
    texts = [
        f"{words} {few(repr(name) for name in names if name not in others)}"
        for words, names, others in parts
        if set(names) - set(others)
    ]
    return "; ".join(texts) or "a name occurs more than once"
