"""Builds the model that a checkpoint belongs to."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import torch

from ssd.checkpoints.layouts import find_layout
from ssd.checkpoints.load import load_weights
from ssd.checkpoints.networks import network_of
from ssd.checkpoints.reading import Checkpoint, Source, read_checkpoint
from ssd.models import SSD, build_model


def build_from_weights(source: Source, *, system: str | None = None, **options: Any) -> SSD:
    """Builds the model that a checkpoint belongs to, with the preset that it was trained with, and loads it.

    Args:
        source, system: as in load_weights.
        options: of build_model, over those that are found out, such as nms_iou_threshold=0.5.
    Returns:
        the model, in training mode.
    Raises:
        ValueError: as in load_weights, or the network cannot be told from the checkpoint.
    """
    checkpoint = read_checkpoint(source)
    layout = find_layout(checkpoint.state, system, checkpoint.source)
    args = {**network_of(checkpoint, layout), **options}
    if checkpoint.build_args is not None:
        _check_size(args, checkpoint)
    model = build_model(**args)
    load_weights(model, checkpoint, system=layout.name)
    return model


def _check_size(args: Mapping[str, Any], checkpoint: Checkpoint) -> None:
    """Refuses build_args of a model far larger than the weights beside them, before any memory is taken for it."""
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wanted = sum(value.numel() for value in build_model(**args).state_dict().values())
    storages = (value.untyped_storage() for value in checkpoint.state.values())
    held = sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())  # many may view one
    if wanted > held:
        raise ValueError(
            f"{checkpoint.source}: its build_args ask for {args['name']} with {wanted} weights, but it holds {held} bytes "
            "of them: it is damaged"
        )
