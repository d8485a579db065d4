"""Builds the model that a checkpoint belongs to."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ssd.checkpoints.layouts import find_layout
from ssd.checkpoints.load import load_weights
from ssd.checkpoints.networks import network_of
from ssd.checkpoints.reading import Checkpoint, Source, read_checkpoint
from ssd.models import SSD, build_model


def build_from_weights(source: Source, *, system: str | None = None, **options: Any) -> SSD:
    """Builds the model that a checkpoint belongs to, with the preset that it was trained with, and loads its weights.

    Args:
        source: See `load_weights`.
        system: See `load_weights`.
        options: Options of `build_model` that override the detected ones, such as `nms_iou_threshold=0.5`.

    Returns:
        The model, in training mode.

    Raises:
        ValueError: As in `load_weights`, or the network cannot be determined from the checkpoint.
    """
    checkpoint = read_checkpoint(source)
    layout = find_layout(checkpoint.state, system, checkpoint.source)
    args = {**network_of(checkpoint, layout), **options}
    if checkpoint.build_args is not None:
        try:
            _check_size(args, checkpoint)
        except ValueError as error:
            if options or checkpoint.source in str(error):
                raise
            raise ValueError(f"{checkpoint.source}: its build_args make no model: {error}") from None
    model = build_model(**args)
    load_weights(model, checkpoint, system=layout.name)
    return model


class _NoRandomValues(TorchFunctionMode):
    """Leaves out the random values of new weights: on the meta device they have none, but import torch._dynamo."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = kwargs or {}
        if func in (Tensor.normal_, Tensor.uniform_) or getattr(func, "__module__", None) == nn.init.__name__:
            return args[0] if args else given["tensor"]
        return func(*args, **given)


def _check_size(args: Mapping[str, Any], checkpoint: Checkpoint) -> None:
    """Rejects build_args of a model far larger than the stored weights, before memory is allocated for it."""
    with torch.device("meta"), _NoRandomValues(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = sum(value.numel() for value in build_model(**args).state_dict().values())
    storages = (value.untyped_storage() for value in checkpoint.state.values())
    stored = sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())  # tensors may share one
    if expected > stored:
        raise ValueError(
            f"{checkpoint.source} is damaged: its build_args describe {args['name']} with {expected} weights, but it holds "
            f"only {stored} bytes of weights"
        )
