"""Reads what others have saved: state dicts, bare or inside training checkpoints, never code."""

from __future__ import annotations

import argparse
import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ssd.models.backbone_weights import download, is_torchvision_name

# What training scripts keep beside weights and what runs no code: torchvision's command line, and numbers of numpy.
_HARMLESS: list[Any] = [
    argparse.Namespace,
    *((np.float64(0).__reduce__()[0], f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
    np.dtype,
    *(type(np.dtype(kind)) for kind in ("float64", "float32", "int64")),
]
# Where training scripts keep the weights; the running mean of this project comes first, it is what gets evaluated.
_INSIDE = (("average", "module"), ("model",), ("state_dict",), ("model_state_dict",), ("net",))


@dataclass(frozen=True)
class Checkpoint:
    """A state dict and what this project keeps beside it.

    Args:
        source: where it came from, in words.
        state: names to tensors, without a "module." or "_orig_mod." before every name.
        build_args, classes: of the model, if this project saved it.
    """

    source: str
    state: dict[str, Tensor]
    build_args: dict[str, Any] | None = None
    classes: tuple[str, ...] | None = None


Source = str | Path | Mapping[str, Any] | Checkpoint


def read_checkpoint(source: Source) -> Checkpoint:
    """Reads a checkpoint onto the CPU.

    Args:
        source: a file, a name of torchvision's weights such as "SSD300_VGG16_Weights.COCO_V1", the loaded mapping, or
            what this function has returned.
    Raises:
        FileNotFoundError: no such file.
        ValueError: it holds pickled objects besides tensors, or no state dict.
        RuntimeError: the download failed.
    """
    if isinstance(source, Checkpoint):
        return source
    if isinstance(source, Mapping):
        words, content = "the mapping", source
    else:
        words, content = str(source), download(str(source)) if is_torchvision_name(str(source)) else _load(Path(source))
    state: Any = content
    for path in _INSIDE:
        inner: Any = content
        for part in path:
            inner = inner.get(part) if isinstance(inner, Mapping) else None
        if isinstance(inner, Mapping):
            state = inner
            break
    if not isinstance(state, Mapping) or not state or not all(isinstance(v, Tensor) for v in state.values()):
        held = f"a mapping with {', '.join(map(str, list(state)[:8]))}" if isinstance(state, Mapping) else type(state)
        raise ValueError(f"{words} must hold a state dict (names to tensors), alone or as 'model', got {held}")
    build_args, classes = (content.get(key) if state is not content else None for key in ("build_args", "classes"))
    return Checkpoint(
        words,
        _without_prefix(dict(state)),
        build_args if isinstance(build_args, dict) else None,
        tuple(map(str, classes)) if isinstance(classes, (list, tuple)) else None,
    )


def _load(path: Path) -> Any:
    if not path.is_file():
        raise FileNotFoundError(
            f"source: no file {str(path)!r}; pass a checkpoint, a name of torchvision such as "
            "SSD300_VGG16_Weights.COCO_V1, or a state dict"
        )
    try:
        with torch.serialization.safe_globals(_HARMLESS):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises nearly anything on a file that is no checkpoint
        pickled = re.search(r"GLOBAL (\S+)", str(error)) if isinstance(error, pickle.UnpicklingError) else None
        if pickled is None:
            broken = isinstance(error, pickle.UnpicklingError)
            reason = "it is not what torch.save writes" if broken else str(error).partition("\n")[0] or repr(error)
            raise ValueError(f"{path} cannot be read as a checkpoint: {reason}") from error
        raise ValueError(
            f"{path} is no checkpoint of tensors alone: it holds pickled {pickled[1]}, and to load that would run code "
            "that the file names (sgrvinod's checkpoints hold their whole module). If you trust it, save its weights "
            "again where its own code can be imported:\n"
            f"  c = torch.load({str(path)!r}, weights_only=False)  # runs code from the file\n"
            "  torch.save((c['model'] if isinstance(c, dict) else c).state_dict(), 'weights.pth')"
        ) from error


def _without_prefix(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Drops what DistributedDataParallel, DataParallel and torch.compile put before every name."""
    for prefix in ("module.", "_orig_mod.", "module."):
        if all(key.startswith(prefix) for key in state):
            state = {key[len(prefix) :]: value for key, value in state.items()}
    return state
