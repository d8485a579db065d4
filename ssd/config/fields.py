"""Fields of the configuration, with the metadata of their flags. Standard library only."""

from __future__ import annotations

from dataclasses import field
from typing import Any


def option(default: Any, help: str, **metadata: Any) -> Any:
    """Returns a dataclass field; `torchvision` is its default under --defaults torchvision, where that differs."""
    metadata["help"] = help
    if isinstance(default, (list, dict)):
        return field(default_factory=lambda: type(default)(default), metadata=metadata)
    return field(default=default, metadata=metadata)
