"""Reads and writes .safetensors files, with what this project saves beside the weights as JSON in their metadata."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ssd.common.atomic_write import write_atomically

_KEY = "ssd"  # key of the metadata, whose values are strings


def read_safetensors(path: Path) -> dict[str, Any]:
    """Returns the state dict of a file, or a checkpoint with it as "model" if this project's metadata are beside it."""
    from safetensors import safe_open

    with safe_open(str(path), framework="pt") as file:
        state = {name: file.get_tensor(name) for name in file.keys()}
        about = json.loads((file.metadata() or {}).get(_KEY, "null"))
    return state if about is None else {**about, "model": state}


def write_safetensors(state: Mapping[str, Tensor], about: Mapping[str, Any], path: Path) -> None:
    """Writes a state dict, and `about` if it is not empty."""
    from safetensors.torch import save

    metadata = {"format": "pt", **({_KEY: json.dumps(about)} if about else {})}
    content = save({name: value.contiguous() for name, value in state.items()}, metadata)
    write_atomically(path, lambda file: file.write(content), len(content))
