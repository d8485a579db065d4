"""Direct access to a model's tensors, in a tenth of the time that a state dict takes."""

from __future__ import annotations

from collections.abc import Sequence
from operator import is_
from typing import Any

from torch import Tensor, nn

Slot = tuple[dict[str, Any], str]  # the dict of a module's parameters or buffers, and a name in it


def tensor_slots(model: nn.Module) -> list[Slot]:
    """Lists the slots of all parameters and persistent buffers."""
    slots: list[Slot] = []
    for module in model.modules():
        persistent = [name for name in module._buffers if name not in module._non_persistent_buffers_set]
        for tensors, names in ((module._parameters, list(module._parameters)), (module._buffers, persistent)):
            slots += [(tensors, name) for name in names if tensors[name] is not None]
    return slots


class Snapshot:
    """Which tensors are in some slots, and their versions; to detect changes in a tenth of a millisecond."""

    def __init__(self, slots: Sequence[Slot]) -> None:
        self._slots = slots
        self._tensors = self._current()
        self._versioned = [tensor for tensor in self._tensors if not tensor.is_inference()]  # others have no version
        self._state = self._versions()

    def is_current(self) -> bool:
        """Returns whether no tensor was replaced, moved or, outside of inference mode, changed in place since then."""
        return all(map(is_, self._tensors, self._current())) and self._state == self._versions()

    def _current(self) -> list[Tensor]:
        return [tensors[name] for tensors, name in self._slots]

    def _versions(self) -> tuple[list[int], list[int]]:
        return [t._version for t in self._versioned], [*map(Tensor.data_ptr, self._tensors)]
